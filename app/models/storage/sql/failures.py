"""Says in one sentence why the database cannot be used."""

import errno
import sqlite3

from sqlalchemy import exc

from app.core.errors import StoreUnavailable
from app.models.storage.sql.database_file import FileMoved, NoFileLocks

# SQLAlchemy wraps the errors of a statement, but not all that occur while it connects.
DATABASE_ERRORS = (exc.DBAPIError, exc.TimeoutError, sqlite3.Error, OSError, TimeoutError)
_BUGS = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)
RETRY_AFTER_S = 5

TOO_SLOW = "The database is too slow for the requests that wait for it."
_ANOTHER_PROCESS = "Another process keeps the database locked."
_MOVED = "The file of the database was moved, removed or replaced; put it back, or restart the server."
_NO_LOCKS = "The disk of the database has no file locks, as some network shares; use a local disk."
_FULL = "The disk of the database is full."
_READ_ONLY = "The database is read-only."
_UNREACHABLE = "The database cannot be reached."
_SQLITE = {
    sqlite3.SQLITE_BUSY: _ANOTHER_PROCESS,
    sqlite3.SQLITE_LOCKED: _ANOTHER_PROCESS,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: "The disk of the database reports errors.",
    sqlite3.SQLITE_CANTOPEN: "The file of the database cannot be opened; is its folder missing or read-only?",
    sqlite3.SQLITE_PERM: "The file of the database may not be opened.",
    sqlite3.SQLITE_AUTH: "The file of the database may not be opened.",
    sqlite3.SQLITE_CORRUPT: "The file of the database is damaged.",
    sqlite3.SQLITE_NOTADB: "The file of the database is not an SQLite database.",
}
# By SQLSTATE, or by its class: its first two characters.
_POSTGRESQL = {
    "25006": _READ_ONLY,
    "28": "The database refuses the user or the password in LLM_DATABASE_URL.",
    "3D": "The database in LLM_DATABASE_URL does not exist.",
    "42501": "The database refuses a change, because its user lacks the permission.",
    "53100": _FULL,
    "53300": "The database takes no more connections.",
    "53": "The database has too few resources.",
    "55P03": _ANOTHER_PROCESS,
    "57": "The database is shutting down or starting.",
    "08": _UNREACHABLE,
}


def unavailable(error: BaseException) -> StoreUnavailable | None:
    """Returns the domain error for one of DATABASE_ERRORS; None if it shows a bug of this program."""
    reason = _reason(error)
    if reason is None:
        return None
    return StoreUnavailable(reason, hint="Nothing was changed. Try again later.", retry_after=RETRY_AFTER_S)


def _reason(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    if isinstance(code := getattr(cause, "sqlite_errorcode", None), int):
        return _SQLITE.get(code & 0xFF, None if isinstance(error, _BUGS) else "The database failed.")
    if isinstance(state := getattr(cause, "sqlstate", None), str):
        found = _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
        return found or (None if isinstance(error, _BUGS) else "The database failed.")
    if isinstance(cause, FileMoved):
        return _MOVED
    if isinstance(cause, NoFileLocks):
        return _NO_LOCKS
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return _FULL
    if isinstance(error, exc.TimeoutError):
        return TOO_SLOW
    return None if isinstance(error, _BUGS) else _UNREACHABLE
