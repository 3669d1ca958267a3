"""The exit codes of the client, for scripts."""

import signal

from app.cli.errors import (
    BadAddress,
    ClientError,
    ConfigError,
    InputError,
    NotOurServer,
    Refused,
    ServerDied,
    TranscriptError,
    Unreachable,
    UsageError,
)

OK, FAILED, USAGE, UNREACHABLE, UNAUTHORIZED, UNKNOWN_MODEL, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE
_USAGE_ERRORS = (BadAddress, InputError, ConfigError, TranscriptError, UsageError)


def exit_code(error: ClientError) -> int:
    if isinstance(error, _USAGE_ERRORS):
        return USAGE
    if isinstance(error, ServerDied) and "LLM_MODEL_NAME" in error.message:
        return UNKNOWN_MODEL
    if isinstance(error, (Unreachable, NotOurServer, ServerDied)):
        return UNREACHABLE
    if not isinstance(error, Refused):
        return FAILED
    if error.code == "model_not_found":
        return UNKNOWN_MODEL
    return UNAUTHORIZED if error.status in (401, 403) else FAILED
