"""Formats log lines, as text or JSON, and writes them to standard error, each with the id of its request.

Log lines contain events, ids and numbers, but never prompts, replies, keys or tokens.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType

from app.core.errors import DomainError, InternalError
from app.core.literals import LogFormat

logger = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="-")
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)

# Characters that could begin a new line, move a terminal's cursor, or be impossible to encode.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")

LineFields = Mapping[str, str | int | float]
_NO_FIELDS: LineFields = {}
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


def with_fields(fields: LineFields, json_fields: LineFields = _NO_FIELDS) -> dict[str, LineFields]:
    """Returns the `extra` of a log call whose line has these fields besides its message.

    The `json_fields` are those that the message has already; only JSON repeats them.
    """
    return {"fields": fields, "json_fields": json_fields}


def _fields_of(record: logging.LogRecord, name: str = "fields") -> LineFields:
    fields: LineFields = getattr(record, name, _NO_FIELDS)
    return fields


class JsonFormatter(logging.Formatter):
    """Formats each record as a JSON object on one line, with the fields and the traceback in it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
            **_fields_of(record, "json_fields"),
            **_fields_of(record),
        }
        if (trace := trace_id.get()) is not None:
            line["trace_id"] = trace
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class LineFormatter(logging.Formatter):
    """Formats `time level logger [request] message field=value` on one line. Tracebacks follow, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        fields = "".join(f" {name}={value}" for name, value in _fields_of(record).items())
        return escape_control(super().formatMessage(record) + fields)

    def formatException(self, ei: ExceptionInfo) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    | {escape_control(line)}" for line in lines)


def configure(level: str, log_format: LogFormat = "text") -> None:
    """Sets up logging: this program and uvicorn from `level` up, libraries from WARNING, in one format."""
    _own_handler().setFormatter(JsonFormatter() if log_format == "json" else LineFormatter())
    _adopt_server_loggers()
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(level)


def _own_handler() -> logging.Handler:
    """Returns the handler that an earlier call has added, or adds one."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler.formatter, LineFormatter | JsonFormatter):
            return handler
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    return handler


def _adopt_server_loggers() -> None:
    for name in _SERVER_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)  # so that its parent's level applies
        logger.disabled = name == "uvicorn.access"  # api/monitoring writes the access log
