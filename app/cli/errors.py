"""Owns what can go wrong, each told in one line of what happened and one of what to do.

ClientError
├── BadAddress       no server can be asked there, or with that key
├── Unreachable      nobody answers there
├── Foreign          somebody answers who does not speak this API
├── Refused          the server said no, and why
├── StreamBroken     the connection ended in the middle of an answer
├── TranscriptError  a name or a file of a conversation
├── UnknownCommand
└── Missing          a command lacks what it needs, or got what it cannot use
"""

from collections.abc import Mapping

from app.models.schemas import ErrorResponse

_HINTS: Mapping[str, str] = {  # in place of the server's, which speak of requests
    "not_authenticated": "Give it with --api-key KEY, or as LLM_API_KEY in the environment.",
    "validation_error": "/set shows the settings and what each takes.",
    "conversation_not_found": "/new begins a new conversation.",
    "conversation_full": "/new begins a new conversation, /undo makes room in this one.",
    "context_length_exceeded": "Send less at once; /undo and /new make room, /models shows larger windows.",
    "not_found": "Client and server must be of one version.",
    "method_not_allowed": "Client and server must be of one version.",
}


class ClientError(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadAddress(ClientError):
    pass


class Unreachable(ClientError):
    pass


class NotOurServer(ClientError):
    pass


class StreamBroken(ClientError):
    pass


class TranscriptError(ClientError):
    pass


class UnknownCommand(ClientError):
    pass


class UsageError(ClientError):
    pass


class Refused(ClientError):
    """`code` is the server's stable name for the reason; `status` is None within a stream."""

    def __init__(self, error: ErrorResponse, status: int | None) -> None:
        detail = error.error
        again = f"Try again in {detail.retry_after} s." if detail.retry_after is not None else None
        super().__init__(detail.message, _HINTS.get(detail.code) or detail.hint or again)
        self.code = detail.code
        self.status = status
