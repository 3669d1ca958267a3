"""Formats log lines and writes them to standard error, each with the id of its request.

Log lines contain events, ids and numbers, but never prompts, replies, keys or tokens.
"""

import logging
import re
import sys
from contextvars import ContextVar
from types import TracebackType

from app.core.errors import DomainError, InternalError

logger = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="-")

# Characters that could begin a new line, move a terminal's cursor, or be impossible to encode.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def escape_control(text: str) -> str:
    r"""Returns the text on one line. A line feed becomes the six characters \u000a, for example."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def to_domain_error(error: BaseException) -> DomainError:
    """Returns the error for the client. A bug is logged with its traceback and becomes an InternalError."""
    if isinstance(error, DomainError):
        return error
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    hint = f"The server's log has the details under request id {request_id.get()}."
    return InternalError("The server failed because of a bug.", hint=hint)


class LineFormatter(logging.Formatter):
    """Formats `time level logger [request] message` on one line. Tracebacks follow, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return escape_control(super().formatMessage(record))

    def formatException(self, ei: ExceptionInfo) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    | {escape_control(line)}" for line in lines)


def configure(level: str) -> None:
    """Sets up logging: this program and uvicorn from `level` up, libraries from WARNING, in one format."""
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, LineFormatter) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
    _adopt_server_loggers()
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(level)


def _adopt_server_loggers() -> None:
    for name in _SERVER_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)  # so that its parent's level applies
        logger.disabled = name == "uvicorn.access"  # api/middleware.py writes the access log
