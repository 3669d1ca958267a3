"""Defines the domain errors. Each has a stable code, and a message and a hint for people.

    DomainError
    ├── InvalidRequest            the request is wrong
    │   ├── ContextOverflow       a single message does not fit the model's context window
    │   ├── ConversationFull      the stored history has reached its size limit
    │   ├── NothingToDo           there is nothing to undo, regenerate or continue
    │   └── NoModelChosen         the request names no model, and none is current
    ├── NotAuthenticated          the key is missing or wrong
    ├── ForbiddenHost             the server does not accept that Host header
    ├── NotPermitted              only an administrator may do this
    ├── BodyTooLarge
    ├── BodyTooSlow               the rest of the request did not arrive in time
    ├── UnsupportedMediaType
    ├── NotFound
    │   ├── ConversationNotFound
    │   ├── MessageNotFound
    │   ├── TurnNotFound          no turn of that id runs or has ended in the last minutes
    │   ├── ResponseNotFound  ItemNotFound    of OpenAI's API
    │   └── ModelNotFound
    ├── ConversationBusy          the conversation is in the middle of a turn
    │   └── TurnElsewhere         which another server runs, or did when it died
    ├── HeadChanged               the conversation's head is not the one that the request expects
    ├── ModelBusy                 the model is in use and cannot be unloaded
    ├── TurnStopped               the turn was stopped before the model had said anything
    ├── KeyReused                 an Idempotency-Key came with another request before
    ├── StoreUnavailable          the database of conversations cannot be used now
    ├── QueueFull                 try again after `retry_after` seconds
    ├── RateLimitExceeded         the caller has used up one of its limits
    ├── DeadlineExceeded          LLM_REQUEST_TIMEOUT has passed
    ├── ModelUnavailable          the model cannot serve now, for the reason in the subclass
    │   ├── ModelLoadFailed       a worker could not serve the model's files
    │   │   └── ModelTooLarge  ModelCorrupt
    │   ├── NoAccess              this machine may not download it; an open alternative may be used
    │   │   └── ModelGated  TokenRefused  ModelMissing
    │   ├── ModelRefused          opening it could run code or read files outside its folder
    │   │   └── ModelNeedsCode
    │   ├── ModelUnsupported      the engine does not support the model
    │   ├── ModelOffline  RateLimited  HubUnreachable
    │   ├── DiskFull
    │   ├── WorkerDied
    │   └── ShuttingDown
    └── InternalError             a bug; the log has the traceback

api/errors.py maps the classes to HTTP status codes.
"""

from typing import ClassVar


class DomainError(Exception):
    """Base of all errors that are caused by the caller or the world, not by a bug.

    `code` is stable, `message` and `hint` are for people. `retry_after` is in seconds; it is set if the cause
    may pass without a person.
    """

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


class PreviousResponseNotFound(InvalidRequest):
    code = "previous_response_not_found"  # with a status of 400, as in OpenAI's API


class NothingToDo(InvalidRequest):
    code = "nothing_to_do"


class NoModelChosen(InvalidRequest):
    code = "no_model_chosen"


class NotAuthenticated(DomainError):
    code = "not_authenticated"


class ForbiddenHost(DomainError):
    code = "forbidden_host"


class NotPermitted(DomainError):
    code = "not_permitted"


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


class MessageNotFound(NotFound):
    code = "message_not_found"


class TurnNotFound(NotFound):
    code = "turn_not_found"


class ResponseNotFound(NotFound):
    code = "response_not_found"


class ItemNotFound(NotFound):
    code = "item_not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class ConversationBusy(DomainError):
    code = "conversation_busy"


class TurnElsewhere(ConversationBusy):
    code = "turn_elsewhere"


class HeadChanged(DomainError):
    """`head_id` is the conversation's head; None if its current branch is empty."""

    code = "head_changed"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: int | None = None,
        head_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.head_id = head_id


class ModelBusy(DomainError):
    code = "model_busy"


class TurnStopped(DomainError):
    code = "turn_stopped"


class KeyReused(DomainError):
    code = "idempotency_key_reused"


class StoreUnavailable(DomainError):
    code = "store_unavailable"


class QueueFull(DomainError):
    code = "queue_full"


class RateLimitExceeded(DomainError):
    code = "rate_limit_exceeded"


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


def error_for_code(
    code: str, message: str, *, hint: str | None = None, retry_after: int | None = None
) -> DomainError:
    """Returns an error with that code; an InternalError if the code is unknown."""
    return _subclasses(DomainError).get(code, InternalError)(message, hint=hint, retry_after=retry_after)
