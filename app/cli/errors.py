"""The errors of the client. Each has a one-line message and usually a hint on what to do.

ClientError
├── InputError       the message, standard input or .env cannot be used
├── ConfigError      config.toml or an environment variable is invalid, or config.toml cannot be written
├── BadAddress       the server's address or API key is malformed
├── Unreachable      no server answers
├── NotOurServer     something answers, but not with this API
├── ServerDied       the client's own server ended while it started
├── Refused          the server rejected the request
├── StreamBroken     the connection ended in the middle of an answer
├── TranscriptError  a saved conversation has a bad name or a bad file
├── UnknownCommand
├── UsageError       a command's argument is missing or invalid
└── NoAnswerYet      the command needs an answer, and the conversation has none
"""

from collections.abc import Mapping

from app.models.schemas import ErrorResponse

KEPT = "The text so far is kept. /continue extends it, /retry regenerates it."
SAME_VERSION = "The client and the server must be the same version."
_HINTS: Mapping[str, str] = {  # replace the server's hints, which are written for programmers
    "not_authenticated": "Pass the key with --api-key KEY or set LLM_API_KEY.",
    "validation_error": "/set lists the settings and their ranges.",
    "conversation_not_found": "/new starts a new conversation.",
    "head_changed": "/follow shows what another client has changed.",
    "conversation_busy": "/follow shows the answer that another client has asked for.",
    "conversation_full": "/new starts a new conversation; /undo makes room in this one.",
    "context_length_exceeded": "Send a shorter message, or make room with /undo or /new. "
    "/models shows the context size of each model.",
    "not_found": SAME_VERSION,
    "method_not_allowed": SAME_VERSION,
}


class ClientError(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(ClientError):
    pass


class ConfigError(ClientError):
    pass


class BadAddress(ClientError):
    pass


class Unreachable(ClientError):
    pass


class NotOurServer(ClientError):
    pass


class ServerDied(ClientError):
    pass


class StreamBroken(ClientError):
    pass


class TranscriptError(ClientError):
    pass


class UnknownCommand(ClientError):
    pass


class UsageError(ClientError):
    pass


class NoAnswerYet(ClientError):
    def __init__(self) -> None:
        super().__init__("There is no answer in this conversation yet.", "Type a message first.")


class Refused(ClientError):
    """`code` is the stable name of the error. `status` is None for an error inside a stream. `head_id` is the
    conversation's head, if the error is that another one was expected and there is one."""

    def __init__(self, error: ErrorResponse, status: int | None) -> None:
        detail = error.error
        wait = f"Try again in {detail.retry_after} s." if detail.retry_after is not None else None
        super().__init__(detail.message, _HINTS.get(detail.code) or detail.hint or wait)
        self.code = detail.code
        self.status = status
        self.head_id = detail.head_id
