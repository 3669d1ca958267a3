"""Owns the requests of one model, from submission to their one end: the engine without its process.

Ties prompt, scheduler, runner, sampling and text together. Knows no transport; tests drive it directly.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from app.core.errors import InvalidRequest
from app.core.literals import FinishReason
from app.engine import sampler as sampling
from app.engine.admission import Admission, AdmissionQueue, Admitted, ChatFormat, internal_failure
from app.engine.execution.model_runner import ModelRunner
from app.engine.ipc.messages import (
    Delta,
    Deltas,
    Failed,
    Finished,
    Outbound,
    RequestTimings,
    Submit,
    TokenCounts,
)
from app.engine.kv.pool import KVPool
from app.engine.kv.prefix_cache import KVCache
from app.engine.kv.slot import KVAllocator, PerSlotAllocator
from app.engine.loading.load import LoadedModel
from app.engine.prefill_budget import PrefillBudget
from app.engine.request import Request
from app.engine.scheduler import Chunk, Scheduler
from app.engine.speculative.cost import CALIBRATION_TOKENS
from app.engine.speculative.proposer import Proposer
from app.engine.tokenization.template_sandbox import TemplateSandbox

_log = logging.getLogger(__name__)

_PLAIN = ChatFormat()
_ADMISSION_WAIT_S = 0.02  # with nothing else to do, before the inbox is looked at again


@dataclass(frozen=True, slots=True)
class EngineLimits:
    context_length: int  # tokens
    kv_cache_bytes: int
    bytes_per_token: int  # of keys and values
    max_active_requests: int = 32
    step_tokens: int = 512
    speculation_rows: int = 8  # most rows of a step that checks guesses; 0 turns guessing off


class EngineCore:
    """`submit` and `cancel` between steps; every `step` returns what has happened since the last.

    Every submitted request ends in exactly one Finished or Failed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        limits: EngineLimits,
        *,
        draft: LoadedModel | None = None,
        arena: KVPool | None = None,
        chat_format: ChatFormat = _PLAIN,
        sandbox: TemplateSandbox | None = None,
        admission_executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keys and values lie in the `arena`, where there is one, which has room for all of them."""
        self.limits = limits
        self._store: KVAllocator = PerSlotAllocator() if arena is None else arena
        self._runner = ModelRunner(loaded.model, arena=arena)
        self._guessing = Proposer(None if draft is None else ModelRunner(draft.model, _layers(loaded), arena))
        sandbox = TemplateSandbox() if sandbox is None else sandbox
        admission = Admission(loaded, limits.context_length, chat_format, sandbox)
        self._admissions = AdmissionQueue(admission, admission_executor)
        self.cache = KVCache(
            budget_bytes=limits.kv_cache_bytes,
            bytes_per_token=limits.bytes_per_token,
            max_tokens=limits.context_length,
            store=self._store,
        )
        self._scheduler = Scheduler(
            self.cache, max_running=limits.max_active_requests, step_tokens=limits.step_tokens
        )
        self._pace = PrefillBudget()
        self._clock = clock
        self._requests: dict[str, Request] = {}
        self._outbox: list[Outbound] = []
        self.steps = 0

    def calibrate_speculation(self) -> None:
        """Measures what guesses cost here; without it they are judged by what is usual. Between requests."""
        if self.limits.context_length >= CALIBRATION_TOKENS:
            self._guessing.calibrate_speculation(self._runner, self._store)

    @property
    def is_idle(self) -> bool:
        """Whether a step would have nothing to compute and nothing to tell."""
        return not self._requests and not self._outbox and not self._admissions

    @property
    def device(self) -> torch.device:
        return self._runner.device

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests that are being prepared, or that wait for room."""
        return len(self._admissions) + len(self._scheduler.waiting)

    def submit(self, submit: Submit) -> None:
        """Has the request prepared beside the step loop; a later step's result accepts or fails it."""
        if submit.request_id in self._requests or submit.request_id in self._admissions:
            error = InvalidRequest("a request with this id is open")
            self._outbox.append(Failed(submit.request_id, error.code, error.message, error.hint))
            return
        self._admissions.add(submit, self._clock())
        self._take_prepared()

    def cancel(self, request_id: str) -> None:
        """No further delta; a request that is over already is left alone."""
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

    def close(self) -> None:
        """Ends the thread that prepares requests. Cancel them before."""
        self._admissions.close()

    def step(self) -> list[Outbound]:
        """One forward pass over what is scheduled, if anything is."""
        self._take_prepared()
        if not self._requests and not self._outbox:
            self._admissions.wait(_ADMISSION_WAIT_S)
            self._take_prepared()
        self._guess()
        chunks = self._plan()
        if chunks:
            began = self._clock()
            self.steps += 1
            prefill_rows = sum(chunk.count for chunk in chunks if chunk.count > 1)
            self._advance(chunks)
            self._pace.learn(self._clock() - began, prefill_rows)
        outbox, self._outbox = self._outbox, []
        return outbox

    def _take_prepared(self) -> None:
        for outcome in self._admissions.take_prepared():
            match outcome:
                case Admitted(request, accepted):
                    self._requests[request.request_id] = request
                    self._scheduler.add(request.sequence)
                    self._outbox.append(accepted)
                case Failed():
                    self._outbox.append(outcome)

    def _plan(self) -> list[Chunk]:
        """This step's work. Whoever the device has no memory for, nothing finished being kept, fails."""
        prefill_rows = self._pace.prefill_rows(self.limits.step_tokens)
        has_room_been_made = False
        while True:
            try:
                return self._scheduler.plan(prefill_rows)
            except (RuntimeError, MemoryError):  # torch's own, too, is a RuntimeError; on the CPU just that
                _log.exception("a step could not be planned")
            # Not above: the error holds on to what the failed call had allocated.
            if has_room_been_made:
                assert self._scheduler.placing is not None, "only to place a sequence takes memory"
                self._fail(self._requests[self._scheduler.placing.request_id])
            self._make_room()
            has_room_been_made = True

    def _make_room(self) -> None:
        self.cache.forget_finished()
        self._runner.recover()
        self._guessing.recover()

    def _advance(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._requests[chunk.sequence.request_id].begin(self._clock())
        last = [self._requests[chunk.sequence.request_id] for chunk in chunks if chunk.is_last]
        replies = self._compute(chunks, last)
        if replies is None:
            self._abandon(chunks)
            return
        for chunk in chunks:
            chunk.sequence.computed += chunk.count
        deltas: list[Delta] = []
        ended: list[tuple[Request, FinishReason]] = []
        for request, tokens in zip(last, replies, strict=True):
            self._take_tokens(request, tokens, deltas, ended)
        if deltas:
            self._outbox.append(Deltas(tuple(deltas)))
        for request, reason in ended:
            self._finish(request, reason)

    def _guess(self) -> None:
        """Guesses for decoding sequences, where they are worth their price; none beside a prefill."""
        running = self._scheduler.running
        decoding = [self._requests[each.request_id] for each in running if each.pending == 1]
        is_prefilling = self._scheduler.waiting or len(decoding) < len(running)
        spare = 0 if is_prefilling else self.limits.speculation_rows - len(decoding)
        most = spare // max(len(decoding), 1)
        self._guessing.guess(decoding, most)

    def _compute(self, chunks: list[Chunk], last: list[Request]) -> list[list[int]] | None:
        """The next tokens of each of `last`, at least one; None when the pass failed."""
        try:
            logits = self._runner.forward(chunks)
            samplers = [request.sampler for request in last]
            guesses = [chunk.guess for chunk in chunks if chunk.is_last]
            return sampling.sample_following(logits, samplers, guesses) if last else []
        except Exception:  # the root of this step's requests: they fail, the engine goes on
            _log.exception("a step of %d sequences failed", len(chunks))
            return None

    def _abandon(self, chunks: list[Chunk]) -> None:
        """Fail the requests of a step whose pass failed; nothing that it may have spoilt is kept."""
        for chunk in chunks:
            self._fail(self._requests[chunk.sequence.request_id])
        self._make_room()

    def _take_tokens(
        self,
        request: Request,
        tokens: list[int],
        deltas: list[Delta],
        ended: list[tuple[Request, FinishReason]],
    ) -> None:
        try:
            parts, reason = request.take(tokens, self._clock())
        except Exception:  # one request's text must not end the others
            _log.exception("the text of request %s failed", request.request_id)
            self._fail(request)
            return
        deltas += [Delta(request.request_id, part.text, request.tokens, part.kind) for part in parts]
        if reason is not None:
            ended.append((request, reason))

    def _finish(self, request: Request, reason: FinishReason) -> None:
        del self._requests[request.request_id]
        self._scheduler.finish(request.sequence)
        self._outbox.append(request.finished(reason, self._clock()))

    def _fail(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._scheduler.drop(request.sequence)
        self._outbox.append(internal_failure(request.request_id))


def _layers(loaded: LoadedModel) -> int:
    return int(loaded.model.config.get_text_config().num_hidden_layers)
