"""The engine of one model: takes requests, computes steps, and returns the messages that they give rise to.

It knows nothing of processes and sockets, so that tests can drive it directly.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from app.core.errors import DomainError, InvalidRequest
from app.core.literals import FinishReason
from app.engine.admission import Admission, AdmissionQueue, Admitted, ChatFormat, internal_failure
from app.engine.execution.decoder import Decoder, SequenceCaches
from app.engine.grammars.masks import MaskWorker
from app.engine.grammars.sandbox import GrammarSandbox
from app.engine.ipc.messages import (
    Delta,
    Deltas,
    Failed,
    Finished,
    Outbound,
    RequestTimings,
    Submit,
    TokenCounts,
    TokenQuestion,
)
from app.engine.loading.load import LoadedModel
from app.engine.request import Request
from app.engine.sampling.step import ChunkOutcome, sample_step
from app.engine.scheduling.prefill_budget import PrefillBudget
from app.engine.scheduling.scheduler import Scheduler
from app.engine.scheduling.sequence import Chunk
from app.engine.tokenization.template_sandbox import TemplateSandbox

_log = logging.getLogger(__name__)

_NO_CHAT_FORMAT = ChatFormat()
_ADMISSION_WAIT_S = 0.02  # how long an idle engine waits for admissions before the inbox is read again


@dataclass(frozen=True, slots=True)
class EngineLimits:
    context_length: int  # tokens
    kv_cache_bytes: int
    max_active_requests: int = 32
    step_tokens: int = 512
    unnoticed_step_s: float = 0.0  # a step with prefill may take this long beside decodes that take less
    speculation_rows: int = 8  # most rows of a step that verifies draft tokens; 0 turns speculation off


class EngineCore:
    """Call `submit` and `cancel` between steps. `step` returns the messages since the last step.

    Every submitted request ends in exactly one Finished or Failed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        decoder: Decoder,
        limits: EngineLimits,
        *,
        chat_format: ChatFormat = _NO_CHAT_FORMAT,
        sandbox: TemplateSandbox | None = None,
        grammar_sandbox: GrammarSandbox | None = None,
        admission_executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.decoder = decoder
        sandbox = TemplateSandbox() if sandbox is None else sandbox
        grammar_sandbox = GrammarSandbox() if grammar_sandbox is None else grammar_sandbox
        self._admission = Admission(loaded, limits.context_length, chat_format, sandbox, grammar_sandbox)
        self._masks = MaskWorker()
        self._admissions = AdmissionQueue(self._admission, admission_executor)
        self._scheduler = Scheduler(
            decoder.cache, max_running=limits.max_active_requests, step_tokens=limits.step_tokens
        )
        self._prefill_budget = PrefillBudget(limits.unnoticed_step_s)
        self._clock = clock
        self._requests: dict[str, Request] = {}
        self._outbox: list[Outbound] = []
        self.steps = 0
        self.drafts = self.draft_tokens = self.accepted_tokens = 0
        self.step_tokens = 0  # of the newest step

    def calibrate(self) -> None:
        """Measure the costs that later decisions need. Call it while idle."""
        self.decoder.calibrate(self.limits.context_length)

    @property
    def cache(self) -> SequenceCaches:
        return self.decoder.cache

    @property
    def is_idle(self) -> bool:
        """Whether a step would have nothing to compute and nothing to report."""
        return not self._requests and not self._outbox and not self._admissions

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    @property
    def preemptions(self) -> int:
        """How often a running request had to give up its keys and values."""
        return self._scheduler.preemptions

    @property
    def waiting(self) -> int:
        """Requests that are being prepared, or that wait for room."""
        return len(self._admissions) + len(self._scheduler.waiting)

    def submit(self, submit: Submit) -> None:
        """Prepare the request in the thread beside the step loop. A later step accepts or fails it."""
        if submit.request_id in self._requests or submit.request_id in self._admissions:
            error = InvalidRequest("a request with this id is open")
            self._outbox.append(Failed(submit.request_id, error.code, error.message, error.hint))
            return
        self._admissions.add(submit, self._clock())
        self._take_prepared()

    def ask(self, question: TokenQuestion) -> None:
        """Answer a question about tokens in the thread beside the step loop. A later step has the answer."""
        self._admissions.ask(question)

    def cancel(self, request_id: str) -> None:
        """End the request without further deltas. Does nothing if it has ended already."""
        if request_id in self._admissions:
            self._admissions.cancel(request_id)
            self._outbox.append(
                Finished(request_id, "cancelled", TokenCounts(0, 0, 0), RequestTimings(0, 0, 0))
            )
        request = self._requests.get(request_id)
        if request is not None:
            self._finish(request, "cancelled")

    def cancel_all(self) -> None:
        for request_id in (*self._admissions, *self._requests):
            self.cancel(request_id)

    def step(self) -> list[Outbound]:
        """Run one forward pass over the scheduled sequences, if there are any."""
        self._take_prepared()
        if not self._requests and not self._outbox:
            self._admissions.wait(_ADMISSION_WAIT_S)
            self._take_prepared()
        self._propose()
        chunks = self._plan()
        self.step_tokens = sum(chunk.count for chunk in chunks)
        if chunks:
            began = self._clock()
            self.steps += 1
            prefill_rows = sum(chunk.count for chunk in chunks if chunk.count > 1)
            self._advance(chunks)
            self._prefill_budget.learn(self._clock() - began, prefill_rows)
        outbox, self._outbox = self._outbox, []
        return outbox

    def _take_prepared(self) -> None:
        for outcome in self._admissions.take_prepared():
            match outcome:
                case Admitted(request, accepted):
                    self._requests[request.request_id] = request
                    self._scheduler.add(request.sequence)
                    self._outbox.append(accepted)
                case _:
                    self._outbox.append(outcome)

    def _propose(self) -> None:
        """Propose draft tokens for the decoding requests. A step that also does prefill verifies none."""
        running = self._scheduler.running
        decoding = [self._requests[sequence.request_id] for sequence in running if sequence.pending == 1]
        is_prefilling = self._scheduler.waiting or len(decoding) < len(running)
        self.decoder.propose(decoding, 0 if is_prefilling else self.limits.speculation_rows)

    def _plan(self) -> list[Chunk]:
        """Returns this step's work.

        A sequence for which the device has no memory, even after the cache was emptied, fails.
        """
        prefill_rows = self._prefill_budget.prefill_rows(self.limits.step_tokens)
        has_room_been_made = False
        while True:
            try:
                return self._scheduler.plan(prefill_rows)
            except (RuntimeError, MemoryError):  # torch's out-of-memory error is a RuntimeError
                _log.exception("a step could not be planned")
            # Not inside the handler: the error keeps alive what the failed call had allocated.
            if has_room_been_made:
                assert self._scheduler.placing is not None, "only placing a sequence takes memory"
                self._fail(self._requests[self._scheduler.placing.request_id])
            self._make_room()
            has_room_been_made = True

    def _make_room(self) -> None:
        self.cache.forget_finished()
        self.decoder.recover()

    def _advance(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._requests[chunk.sequence.request_id].start(self._clock())
        outcomes = self._compute(chunks)
        if outcomes is None:
            self._abandon(chunks)
            return
        deltas: list[Delta] = []
        ended: list[tuple[Request, FinishReason]] = []
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            request = self._requests[chunk.sequence.request_id]
            self._report_prompt(request, outcome)
            chunk.sequence.advance(chunk.count)
            if outcome.tokens:
                new_deltas, reason = self._take_tokens(request, outcome)
                deltas += new_deltas
                if reason is not None:
                    ended.append((request, reason))
        if deltas:
            self._outbox.append(Deltas(tuple(deltas)))
        for request, reason in ended:
            self._finish(request, reason)

    def _compute(self, chunks: list[Chunk]) -> list[ChunkOutcome] | None:
        """Returns the outcome of each chunk; None if the pass failed."""
        try:
            samplers = [self._requests[chunk.sequence.request_id].sampler for chunk in chunks]
            self._masks.start(
                (sampler.grammar, chunk.draft_ids)
                for chunk, sampler in zip(chunks, samplers, strict=True)
                if chunk.is_last and sampler.grammar is not None
            )
            logits = self.decoder.forward(chunks)
            self._masks.finish()
            return sample_step(logits, chunks, samplers)
        except Exception:  # the root of this step's requests: they fail, the engine continues
            _log.exception("a step of %d sequences failed", len(chunks))
            return None

    def _report_prompt(self, request: Request, outcome: ChunkOutcome) -> None:
        if not outcome.prompt_logprobs:
            return
        computed = request.sequence.computed
        tokens = self._admission.describe(outcome.prompt_logprobs)
        first = [] if computed > 0 else [self._admission.undescribed(request.sequence.ids[0])]
        message = request.take_prompt(computed + 1 - len(first), first + tokens)
        if message is not None:
            self._outbox.append(message)

    def _abandon(self, chunks: list[Chunk]) -> None:
        """Fail the requests of a step whose pass failed. Keys and values may be wrong, so none are kept."""
        for chunk in chunks:
            self._fail(self._requests[chunk.sequence.request_id])
        self._make_room()

    def _take_tokens(
        self, request: Request, outcome: ChunkOutcome
    ) -> tuple[list[Delta], FinishReason | None]:
        """Returns the request's new deltas, and the reason if its reply ends."""
        self._count_draft(len(request.sequence.draft_ids), accepted=len(outcome.tokens) - 1)
        self.decoder.record(request, accepted=len(outcome.tokens) - 1)
        if request.sampler.failure is not None:
            self._fail(request, InvalidRequest(request.sampler.failure))
            return [], None
        try:
            logprobs = self._admission.describe(outcome.logprobs)
            return request.take(outcome.tokens, logprobs, self._clock())
        except Exception:  # one request's text must not end the others
            _log.exception("the text of request %s failed", request.request_id)
            self._fail(request)
            return [], None

    def _count_draft(self, proposed: int, accepted: int) -> None:
        if proposed > 0:
            self.drafts += 1
            self.draft_tokens += proposed
            self.accepted_tokens += accepted

    def _finish(self, request: Request, reason: FinishReason) -> None:
        self._forget(request)
        self._scheduler.finish(request.sequence)
        self._outbox.append(request.finished(reason, self._clock()))

    def _fail(self, request: Request, error: DomainError | None = None) -> None:
        """End the request with this error, or with one of the engine."""
        self._forget(request)
        self._scheduler.drop(request.sequence)
        request_id = request.request_id
        self._outbox.append(
            internal_failure(request_id)
            if error is None
            else Failed(request_id, error.code, error.message, error.hint)
        )

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        self.decoder.forget(request)
