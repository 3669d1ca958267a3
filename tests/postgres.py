"""Runs a PostgreSQL server of Debian's package in a temporary folder, without writing through to the disk."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import free_port
from tests.waiting import LIMIT_S, wait_for

USER = "tests"
_UNPRIVILEGED = "nobody"  # initdb refuses root


def find_programs() -> Path | None:
    """The folder with PostgreSQL's programs, of the newest version; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


@dataclass
class PostgresServer:
    """A cluster that a test may stop and start again."""

    programs: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    databases: int = 0

    def create(self) -> None:
        self._run("initdb", "-D", str(self.folder / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "-N")

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        options = ("-F", "-h", "127.0.0.1", "-k", str(self.folder), "-p", str(self.port))
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", str(self.folder / "data"), *options],
            stdout=log,
            stderr=log,
            user=_user(),
            group=None if _user() is None else "nogroup",
            extra_groups=None if _user() is None else [],
        )
        log.close()
        wait_for(self._is_answering, "PostgreSQL to answer")

    def stop(self, signal_number: signal.Signals = signal.SIGINT) -> None:
        """Ends all sessions and the server, which keeps its data."""
        if self.process is not None:
            self.process.send_signal(signal_number)
            self.process.wait(LIMIT_S)
            self.process = None

    def new_database(self, template: str = "template0") -> str:
        """The name of a new copy of a database."""
        self.databases += 1
        name = f"tests_{self.databases}"
        self._run("createdb", *self._address(), "-T", template, name)
        return name

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def sql(self, database: str, statement: str) -> str:
        """What psql prints."""
        return self._run("psql", *self._address(), "-At", "-d", database, "-c", statement)

    def _address(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER)

    def _is_answering(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.folder / "log").read_text()
        ready = [str(self.programs / "pg_isready"), "-q", *self._address()]
        return subprocess.run(ready, check=False, timeout=LIMIT_S).returncode == 0

    def _run(self, program: str, *arguments: str) -> str:
        return subprocess.run(
            [str(self.programs / program), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=self.folder,
            user=_user(),
            group=None if _user() is None else "nogroup",
            extra_groups=None if _user() is None else [],
        ).stdout.strip()


def _user() -> str | None:
    """The user that the programs run as; None for the one of the tests."""
    return _UNPRIVILEGED if os.getuid() == 0 else None


@contextmanager
def running_postgres(programs: Path) -> Iterator[PostgresServer]:
    """Runs an empty cluster."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, _UNPRIVILEGED, "nogroup")
    server = PostgresServer(programs, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
