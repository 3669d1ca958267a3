"""Keeps the open requests to models, and the last failures, for people who watch the server."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import DomainError, InternalError
from app.core.telemetry.logging import request_id
from app.models.conversation import now
from app.models.schemas import FailureEntry, RequestEntry, RequestStage

_KEPT_FAILURES = 200


@dataclass(slots=True, eq=False)
class OpenRequest:
    """A request to a model, while it is open. `owner` is the name of its caller."""

    owner: str
    request_id: str
    began: float
    model_name: str | None
    stage: RequestStage = "model"
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    request: OpenRequest
    at: datetime
    error: DomainError


class Activity:
    """The open requests, and the last failures."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[OpenRequest, None] = {}  # the oldest first
        self._failures: deque[_Failure] = deque(maxlen=_KEPT_FAILURES)

    def begin(self, owner: str, model_name: str | None) -> OpenRequest:
        """Returns a new open request. Its owner must `end` it."""
        request = OpenRequest(owner, request_id.get(), self._clock(), model_name)
        self._open[request] = None
        return request

    def end(self, request: OpenRequest) -> None:
        del self._open[request]

    def fail(self, request: OpenRequest, error: Exception) -> DomainError:
        """Keeps the error of a request for a while. Returns it, or InternalError for a bug."""
        known = (
            error if isinstance(error, DomainError) else InternalError("The server failed because of a bug.")
        )
        self._failures.append(_Failure(request, now(), known))
        return known

    def requests_of(self, owner: str) -> list[RequestEntry]:
        """Returns the owner's open requests, the oldest first."""
        return [
            RequestEntry(
                request_id=request.request_id,
                model_name=request.model_name,
                stage=request.stage,
                age_s=self._clock() - request.began,
                prompt_tokens=request.prompt_tokens,
                completion_tokens=request.completion_tokens,
            )
            for request in self._open
            if request.owner == owner
        ]

    def failures_of(self, owner: str) -> list[FailureEntry]:
        """Returns the owner's last failures, the newest first."""
        return [
            FailureEntry(
                timestamp=failure.at,
                request_id=failure.request.request_id,
                model_name=failure.request.model_name,
                code=failure.error.code,
                message=failure.error.message,
            )
            for failure in reversed(self._failures)
            if failure.request.owner == owner
        ]
