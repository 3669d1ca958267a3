"""Measures the steps of an engine in this process: with decodes, prefill and histories of many sizes."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from app.engine.execution.decoder import Decoder, SequenceCaches
from app.engine.ipc.messages import ChatMessage, CountTokens, SamplingParams, Submit, TokenCount
from app.engine.request import Request
from app.engine.scheduling.sequence import Chunk
from app.engine.startup import ReadyEngine
from tests.capacity.prompts import PromptText
from tests.capacity.step_times import StepSample, StepShape, StepTimes, fit, relative_errors, shape_of
from tests.gpu.engines import greedy

_BLOCK = 64  # tokens; the KV cache gives a sequence multiples of it
_OUTLIERS = 0.1  # share of the samples that other programs may have disturbed
_COUNTS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that are sent together."""

    sequences: int
    prompt_tokens: int
    reply_tokens: int


CASES = (
    *(Case(count, 32, 24) for count in (1, 2, 4, 8, 16, 32)),
    *(Case(1, tokens, 2) for tokens in (16, 48, 96, 128, 192, 256, 384, 512)),
    Case(1, 800, 24),
    Case(2, 600, 24),
    Case(6, 200, 24),
)


class RecordingDecoder:
    """A Decoder that notes the work of the last pass."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.shape: StepShape | None = None

    @property
    def cache(self) -> SequenceCaches:
        return self._decoder.cache

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    def calibrate(self, context_length: int) -> None:
        self._decoder.calibrate(context_length)

    def propose(self, decoding: Sequence[Request], max_rows: int) -> None:
        """Proposes nothing: a step is measured as it is without draft tokens."""

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        self.shape = shape_of(chunks)
        return self._decoder.forward(chunks)

    def record(self, request: Request, accepted: int) -> None:
        self._decoder.record(request, accepted)

    def forget(self, request: Request) -> None:
        self._decoder.forget(request)

    def recover(self) -> None:
        self._decoder.recover()


def measure_steps(
    ready: ReadyEngine, text: PromptText, cases: Sequence[Case] = CASES, rounds: int = 2
) -> list[StepSample]:
    """Returns the steps of the cases, after a run of each with one sequence that compiles their passes."""
    recorder = RecordingDecoder(ready.engine.decoder)
    ready.engine.decoder = recorder
    samples: list[StepSample] = []
    for case in cases:
        list(_steps(ready, recorder, _requests(ready, text, replace(case, sequences=1), f"first/{case}")))
    for number in range(rounds):
        for case in cases:
            samples += _steps(ready, recorder, _requests(ready, text, case, f"{number}/{case}"))
            ready.engine.cache.forget_finished()
    return samples


def fit_without_outliers(samples: Sequence[StepSample]) -> tuple[StepTimes, float]:
    """Returns the fitted times, and the median relative error of all samples."""
    errors = relative_errors(fit(samples), samples)
    limit = sorted(errors)[int((1 - _OUTLIERS) * len(errors))]
    times = fit([sample for sample, error in zip(samples, errors, strict=True) if error <= limit])
    return times, median(relative_errors(times, samples))


def kv_bytes_per_token(ready: ReadyEngine, text: PromptText) -> int:
    """Returns what the KV cache takes for a token. Call it while idle."""
    ready.engine.cache.forget_finished()
    list(_run(ready, [greedy("one block", text.message(_BLOCK - 1), 1)]))
    return ready.engine.cache.used_bytes // _BLOCK


@dataclass(frozen=True, slots=True)
class PromptCosts:
    """What the admission thread does with a chat, and the tokens that the chat template adds."""

    prepare_s: float
    prepare_token_s: float
    first_overhead_tokens: int
    turn_overhead_tokens: int


def measure_prompts(ready: ReadyEngine, text: PromptText) -> PromptCosts:
    """Measures the prompts of a first and of a fourth turn."""
    window = ready.info.context_length
    length = min(100, window // 16)
    chats = [_chat(text, turns, length) for turns in (1, 2, 4)]
    counted = [_count(ready, chat) for chat in chats]
    (first, first_s), (second, _), (fourth, fourth_s) = counted
    per_token_s = max(0.0, (fourth_s - first_s) / (fourth - first))
    return PromptCosts(
        prepare_s=max(0.0, first_s - per_token_s * first),
        prepare_token_s=per_token_s,
        first_overhead_tokens=first - length,
        turn_overhead_tokens=second - first - 2 * length,
    )


def _requests(ready: ReadyEngine, text: PromptText, case: Case, name: str) -> Iterator[Submit]:
    length = min(case.prompt_tokens, ready.info.context_length - case.reply_tokens - _BLOCK)
    for number in range(case.sequences):
        submit = greedy(f"{name}/{number}", text.message(length), case.reply_tokens)
        sampling = SamplingParams(max_tokens=case.reply_tokens, temperature=0, ignore_eos=True)
        yield Submit(submit.request_id, sampling, prompt=submit.prompt, scope=submit.scope)


def _steps(ready: ReadyEngine, recorder: RecordingDecoder, submits: Iterator[Submit]) -> Iterator[StepSample]:
    for seconds in _run(ready, list(submits)):
        if recorder.shape is not None:
            yield StepSample(recorder.shape, seconds)
        recorder.shape = None


def _run(ready: ReadyEngine, submits: Sequence[Submit]) -> Iterator[float]:
    """Runs the requests to their ends. Yields the seconds of each step."""
    for submit in submits:
        ready.engine.submit(submit)
    while not ready.engine.is_idle:
        began = time.perf_counter()
        ready.engine.step()
        yield time.perf_counter() - began


def _chat(text: PromptText, turns: int, length: int) -> Submit:
    messages = [
        ChatMessage("assistant" if number % 2 else "user", text.message(length))
        for number in range(2 * turns - 1)
    ]
    return Submit("counted", SamplingParams(), messages=tuple(messages))


def _count(ready: ReadyEngine, chat: Submit) -> tuple[int, float]:
    """Returns the number of tokens and the least seconds that preparing them takes."""
    times = []
    for number in range(_COUNTS):
        began = time.perf_counter()
        ready.engine.ask(CountTokens(f"count {number}", chat))
        answers = ready.engine.step()
        while not answers:
            answers = ready.engine.step()
        times.append(time.perf_counter() - began)
    (tokens,) = (answer.tokens for answer in answers if isinstance(answer, TokenCount))
    return tokens, min(times)
