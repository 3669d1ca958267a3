"""The engine of one model: takes requests, computes steps, and returns the resulting messages.

It knows nothing of processes and sockets, so that tests can drive it directly. On a graphics card it makes
the text of a step's tokens while the card computes the next step.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from app.core.errors import InvalidRequest
from app.core.literals import FinishReason
from app.engine.admission import Admission, Admitted, ChatFormat, to_failed
from app.engine.admission_queue import AdmissionQueue
from app.engine.execution.decoder import Decoder, SequenceCaches
from app.engine.execution.thread_count import ThreadCount, adaptive_thread_count
from app.engine.ipc.messages import (
    Finished,
    Outbound,
    RequestTimings,
    Submit,
    TokenCounts,
    TokenQuestion,
)
from app.engine.loading.load import LoadedModel
from app.engine.open_requests import OpenRequests, UnreadTokens
from app.engine.request import Request
from app.engine.sampling.step import ChunkOutcome
from app.engine.sandbox.grammar_sandbox import GrammarSandbox
from app.engine.sandbox.template_sandbox import TemplateSandbox
from app.engine.scheduling.prefill_budget import PrefillBudget
from app.engine.scheduling.scheduler import Scheduler
from app.engine.scheduling.sequence import Chunk
from app.engine.step import Step, StepComputer
from app.engine.tokenization.bounded_calls import CALL_LIMIT_S

_log = logging.getLogger(__name__)

_NO_CHAT_FORMAT = ChatFormat()
_MOST_LOST_CALLS = 2  # of the tokenizer, beside open requests
_ADMISSION_WAIT_S = 0.02  # how long an idle engine waits for admissions before the inbox is read again


@dataclass(frozen=True, slots=True)
class EngineLimits:
    context_length: int  # tokens
    kv_cache_bytes: int
    max_active_requests: int = 32
    step_tokens: int = 512
    unnoticed_step_s: float = 0.0  # a step with prefill may take this long beside decodes that take less
    speculation_rows: int = 8  # most rows of a step that verifies draft tokens; 0 turns speculation off
    overlaps_steps: bool = False  # whether the text of a step is made while the device computes the next one
    tokenizer_s: float = CALL_LIMIT_S  # how long the tokenizer may take for a short text
    adapts_threads: bool = False  # whether the number of torch's threads follows the cores that are free


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
        self._admission = Admission(
            loaded, limits.context_length, chat_format, sandbox, grammar_sandbox, limits.tokenizer_s
        )
        self._computer = StepComputer(decoder)
        self._admissions = AdmissionQueue(self._admission, admission_executor)
        self._scheduler = Scheduler(
            decoder.cache, max_running=limits.max_active_requests, step_tokens=limits.step_tokens
        )
        self._prefill_budget = PrefillBudget(limits.unnoticed_step_s)
        self._threads: ThreadCount | None = None
        self._clock = clock
        self._open = OpenRequests(decoder, self._scheduler, self._admission)
        self._step: Step | None = None  # whose tokens are not known yet
        self.steps = 0
        self.drafts = self.draft_tokens = self.accepted_tokens = 0
        self.step_tokens = 0  # of the newest step

    def calibrate(self) -> None:
        """Measure the costs that later decisions need. Call it while idle, with all threads in use."""
        self.decoder.calibrate(self.limits.context_length)
        self._threads = adaptive_thread_count() if self.limits.adapts_threads else None

    @property
    def cache(self) -> SequenceCaches:
        return self.decoder.cache

    @property
    def is_idle(self) -> bool:
        """Whether a step would have nothing to compute and nothing to report."""
        return not (self._open or self._open.has_messages or self._admissions or self._step)

    @property
    def must_be_replaced(self) -> bool:
        """Whether calls of the tokenizer that nobody awaits keep cores busy, and this process should end.

        With few of them, the open requests may end first.
        """
        lost = self._admission.lost_calls
        return lost > (_MOST_LOST_CALLS if self.waiting or self.running else 0)

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
        if submit.request_id in self._open or submit.request_id in self._admissions:
            self._open.report(to_failed(submit.request_id, InvalidRequest("a request with this id is open")))
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
            self._open.report(
                Finished(request_id, "cancelled", TokenCounts(0, 0, 0), RequestTimings(0, 0, 0))
            )
        if request_id in self._open:
            self._finish(self._open[request_id], "cancelled")

    def cancel_all(self) -> None:
        for request_id in (*self._admissions, *self._open):
            self.cancel(request_id)

    def step(self) -> list[Outbound]:
        """Run one forward pass over the scheduled sequences, if there are any.

        With `overlaps_steps` the next pass is started, too, before the text of this one's tokens is made. A
        reply that its text ends, such as a stop string, then computes a token that is not used.
        """
        self._take_prepared()
        if not self._open and not self._open.has_messages:
            self._admissions.wait(_ADMISSION_WAIT_S)
            self._take_prepared()
        if self._step is None:
            self._start_step()
        accepted = self._finish_step()
        if self.limits.overlaps_steps:
            self._read([(request, logprobs) for request, logprobs in accepted if request.must_end])
            self._start_step()
        self._read(
            [(request, logprobs) for request, logprobs in accepted if request.unread or request.must_end]
        )
        return self._open.take_messages()

    def _take_prepared(self) -> None:
        for outcome in self._admissions.take_prepared():
            match outcome:
                case Admitted(request, accepted):
                    self._open.add(request)
                    self._open.report(accepted)
                case _:
                    self._open.report(outcome)

    def _propose(self) -> None:
        """Propose draft tokens for the decoding requests. A step that also does prefill verifies none."""
        running = self._scheduler.running
        decoding = [self._open[sequence.request_id] for sequence in running if sequence.pending == 1]
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
            # Not inside the handler: the error keeps the memory of the failed call alive.
            if has_room_been_made:
                assert self._scheduler.placing is not None, "only placing a sequence takes memory"
                self._open.fail(self._open[self._scheduler.placing.request_id])
            self._make_room()
            has_room_been_made = True

    def _make_room(self) -> None:
        self.cache.forget_finished()
        self.decoder.recover()

    def _start_step(self) -> None:
        """Start the forward pass of the next step, if there is anything to compute."""
        self._propose()
        chunks = self._plan()
        self.step_tokens = sum(chunk.count for chunk in chunks)
        if not chunks:
            return
        self.steps += 1
        now = self._clock()
        requests = [self._open[chunk.sequence.request_id] for chunk in chunks]
        for request in requests:
            request.start(now)
        if self._threads is not None:
            self._threads.before_step(now)
        self._step = self._computer.start(chunks, requests, now)
        if self._step is None:
            self._abandon(requests)

    def _finish_step(self) -> list[UnreadTokens]:
        """Wait for the step's tokens, and let the sequences take them.

        Returns the requests that have tokens without text, with the log-probabilities of those tokens.
        """
        step, self._step = self._step, None
        if step is None:
            return []
        outcomes = self._computer.finish(step)
        if outcomes is None:
            self._abandon(step.requests)
            return []
        now = self._clock()
        self._prefill_budget.learn(now - step.began_at, step.prefill_rows)
        if self._threads is not None:
            self._threads.after_step(step.began_at, now)
        accepted = []
        for chunk, request, outcome in zip(step.chunks, step.requests, outcomes, strict=True):
            if not self._open.has(request):  # it may have ended while the step was computed
                continue
            logprobs = self._open.describe(request, outcome)
            if logprobs is None:
                continue
            chunk.sequence.advance(chunk.count)
            if outcome.tokens and self._accept(request, outcome, now):
                accepted.append((request, logprobs))
        return accepted

    def _abandon(self, requests: Sequence[Request]) -> None:
        """Fail the requests of a step that failed. Keys and values may be wrong, so none are kept."""
        for request in requests:
            if self._open.has(request):
                self._open.fail(request)
        self._make_room()

    def _accept(self, request: Request, outcome: ChunkOutcome, now: float) -> bool:
        """Let the request take its tokens. Returns False if it cannot go on."""
        self._count_draft(len(request.sequence.draft_ids), accepted=len(outcome.tokens) - 1)
        self.decoder.record(request, accepted=len(outcome.tokens) - 1)
        if request.sampler.failure is not None:
            self._open.fail(request, InvalidRequest(request.sampler.failure))
            return False
        request.accept(outcome.tokens, now)
        return True

    def _count_draft(self, proposed: int, accepted: int) -> None:
        if proposed > 0:
            self.drafts += 1
            self.draft_tokens += proposed
            self.accepted_tokens += accepted

    def _read(self, unread: Sequence[UnreadTokens]) -> None:
        """Make the text of the requests' new tokens, and end the replies that are complete."""
        for request, reason in self._open.read(unread):
            self._finish(request, reason)

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if self._step is not None:
            self._step.leave(request.sequence)
        self._open.finish(request, reason, self._clock())
        self._admissions.keep_reply(request)
