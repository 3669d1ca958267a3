"""The requests that were accepted and have not ended: how their tokens become messages, and how they end."""

import logging
from collections.abc import Iterator, Sequence

from app.core.errors import DomainError
from app.core.literals import FinishReason
from app.engine.admission import Admission, internal_failure, to_failed
from app.engine.execution.decoder import Decoder
from app.engine.ipc.messages import Delta, Deltas, Outbound, TokenLogprob
from app.engine.request import Request
from app.engine.sampling.step import ChunkOutcome
from app.engine.scheduling.scheduler import Scheduler

_log = logging.getLogger(__name__)

UnreadTokens = tuple[
    Request, list[TokenLogprob]
]  # a request with tokens without text, and what describes them


class OpenRequests:
    """The open requests by id, and the messages since the last `take_messages`.

    Each request that was added ends in exactly one Finished or Failed.
    """

    def __init__(self, decoder: Decoder, scheduler: Scheduler, admission: Admission) -> None:
        self._decoder = decoder
        self._scheduler = scheduler
        self._admission = admission
        self._requests: dict[str, Request] = {}
        self._messages: list[Outbound] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[str]:
        return iter(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def __getitem__(self, request_id: str) -> Request:
        return self._requests[request_id]

    def has(self, request: Request) -> bool:
        """Whether this request is open, and not another one with its id."""
        return self._requests.get(request.request_id) is request

    @property
    def has_messages(self) -> bool:
        return bool(self._messages)

    def take_messages(self) -> list[Outbound]:
        messages, self._messages = self._messages, []
        return messages

    def report(self, message: Outbound) -> None:
        self._messages.append(message)

    def add(self, request: Request) -> None:
        """Let the scheduler plan the request, too."""
        self._requests[request.request_id] = request
        self._scheduler.add(request.sequence)

    def describe(self, request: Request, outcome: ChunkOutcome) -> list[TokenLogprob] | None:
        """Report the log-probabilities of the prompt. Returns those of the reply; None if that fails."""
        try:
            self._report_prompt(request, outcome)
            return self._admission.describe(outcome.logprobs)
        except Exception:  # one request's tokens must not end the others
            _log.exception("the log-probabilities of request %s failed", request.request_id)
            self.fail(request)
            return None

    def _report_prompt(self, request: Request, outcome: ChunkOutcome) -> None:
        if not request.sequence.needs_all_logits:
            return
        computed = request.sequence.computed
        tokens = self._admission.describe(outcome.prompt_logprobs)
        first = [] if computed > 0 else [self._admission.undescribed(request.sequence.ids[0])]
        message = request.take_prompt(computed + 1 - len(first), first + tokens)
        if message is not None:
            self.report(message)

    def read(self, unread: Sequence[UnreadTokens]) -> list[tuple[Request, FinishReason]]:
        """Report the text of new tokens. Returns the requests whose replies are complete, to be finished."""
        deltas: list[Delta] = []
        ended: list[tuple[Request, FinishReason]] = []
        for request, logprobs in unread:
            if not self.has(request):  # starting the next step failed
                continue
            try:
                new_deltas, reason = request.read(logprobs)
            except Exception:  # one request's text must not end the others
                _log.exception("the text of request %s failed", request.request_id)
                self.fail(request)
                continue
            deltas += new_deltas
            if reason is not None:
                ended.append((request, reason))
        if deltas:
            self.report(Deltas(tuple(deltas)))
        return ended

    def finish(self, request: Request, reason: FinishReason, now: float) -> None:
        """End the request. Its keys and values may stay in the cache."""
        self._forget(request)
        self._scheduler.finish(request.sequence)
        self.report(request.finished(reason, now))

    def fail(self, request: Request, error: DomainError | None = None) -> None:
        """End the request with this error, or with one of the engine. Nothing of it stays in the cache."""
        self._forget(request)
        self._scheduler.drop(request.sequence)
        request_id = request.request_id
        self.report(internal_failure(request_id) if error is None else to_failed(request_id, error))

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._decoder.forget(request)
