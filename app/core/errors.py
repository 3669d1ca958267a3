"""Owns the tree of domain errors: what can go wrong, in words a user can act on.

    DomainError
    ├── InvalidRequest            the request cannot be honoured as it stands
    │   ├── ContextOverflow       a single message does not fit the model's window
    │   ├── ConversationFull      the stored history reached its size limit
    │   ├── NothingToDo           undo, regenerate or continue with nothing to act on
    │   └── NoModelChosen         the request names no model, and none is current
    ├── NotAuthenticated          no key, or a wrong one
    ├── ForbiddenHost             a Host header that this server does not answer to
    ├── BodyTooLarge
    ├── BodyTooSlow               the rest of the request did not arrive in time
    ├── UnsupportedMediaType
    ├── NotFound
    │   ├── ConversationNotFound
    │   └── ModelNotFound
    ├── ConversationBusy          one turn at a time each
    ├── ModelBusy                 it cannot be unloaded now
    ├── QueueFull                 come back after `retry_after` seconds
    ├── DeadlineExceeded          LLM_REQUEST_TIMEOUT passed
    ├── ModelUnavailable          the model cannot serve now; the subclass says why
    │   ├── ModelLoadFailed       its files are there, and a worker could not serve them
    │   │   └── ModelTooLarge  ModelCorrupt
    │   ├── NoAccess              whoever asks may not have it; an open alternative may take its place
    │   │   └── ModelGated  TokenRefused  ModelMissing
    │   ├── ModelRefused          opening it could run code or read what is no part of it
    │   │   └── ModelNeedsCode
    │   ├── ModelUnsupported      the engine does not compute its architecture
    │   ├── ModelOffline  RateLimited  HubUnreachable
    │   ├── DiskFull
    │   ├── WorkerDied
    │   └── ShuttingDown
    └── InternalError             our bug; the log has the traceback

Knows no HTTP: api/errors.py holds the one table from these classes to status codes.
"""

from typing import ClassVar


class DomainError(Exception):
    """Base of what is raised for the caller or the world. `code` is stable, `message` is for people."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, hint: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after


class InvalidRequest(DomainError):
    code = "invalid_request"


class ContextOverflow(InvalidRequest):
    code = "context_length_exceeded"


class ConversationFull(InvalidRequest):
    code = "conversation_full"


class NothingToDo(InvalidRequest):
    code = "nothing_to_do"


class NoModelChosen(InvalidRequest):
    code = "no_model_chosen"


class NotAuthenticated(DomainError):
    code = "not_authenticated"


class ForbiddenHost(DomainError):
    code = "forbidden_host"


class BodyTooLarge(DomainError):
    code = "body_too_large"


class BodyTooSlow(DomainError):
    code = "body_too_slow"


class UnsupportedMediaType(DomainError):
    code = "unsupported_media_type"


class NotFound(DomainError):
    code = "not_found"


class ConversationNotFound(NotFound):
    code = "conversation_not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class ConversationBusy(DomainError):
    code = "conversation_busy"


class ModelBusy(DomainError):
    code = "model_busy"


class QueueFull(DomainError):
    code = "queue_full"


class DeadlineExceeded(DomainError):
    code = "deadline_exceeded"


class ModelUnavailable(DomainError):
    code = "model_unavailable"


class ModelLoadFailed(ModelUnavailable):
    code = "model_load_failed"


class ModelTooLarge(ModelLoadFailed):
    code = "model_too_large"


class NoAccess(ModelUnavailable):
    code = "no_access"


class ModelGated(NoAccess):
    code = "model_gated"


class TokenRefused(NoAccess):
    code = "token_refused"


class ModelMissing(NoAccess):
    code = "model_missing"


class ModelRefused(ModelUnavailable):
    code = "model_refused"


class ModelNeedsCode(ModelRefused):
    code = "model_needs_code"


class ModelUnsupported(ModelUnavailable):
    code = "model_unsupported"


class ModelOffline(ModelUnavailable):
    code = "model_offline"


class RateLimited(ModelUnavailable):
    code = "rate_limited"


class HubUnreachable(ModelUnavailable):
    code = "hub_unreachable"


class DiskFull(ModelUnavailable):
    code = "disk_full"


class ModelCorrupt(ModelLoadFailed):
    code = "model_corrupt"


class WorkerDied(ModelUnavailable):
    code = "worker_died"


class ShuttingDown(ModelUnavailable):
    code = "shutting_down"


class InternalError(DomainError):
    code = "internal_error"


def _subclasses(cls: type[DomainError]) -> dict[str, type[DomainError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found |= _subclasses(child)
    return found


def error_for_code(code: str, message: str, *, hint: str | None = None) -> DomainError:
    """The error a worker named by its code; an unknown code is an InternalError."""
    return _subclasses(DomainError).get(code, InternalError)(message, hint=hint)
