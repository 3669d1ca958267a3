"""Measures the steps of an engine in this process: with decodes, prefill and histories of many sizes."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from statistics import mean, median

from app.engine.ipc.messages import ChatMessage, CountTokens, SamplingParams, Submit, TokenCount
from tests.capacity.prompts import PromptText
from tests.capacity.recording_engine import RecordingEngine
from tests.capacity.step_times import StepSample, StepTimes, fit, knot_near, relative_errors
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
_BESIDE = Case(sequences=4, prompt_tokens=32, reply_tokens=96)  # that decode beside preparations


def measure_steps(
    recording: RecordingEngine, text: PromptText, cases: Sequence[Case] = CASES, rounds: int = 2
) -> list[StepSample]:
    """Returns the steps of the cases, after a run of each with one sequence that compiles their passes."""
    samples: list[StepSample] = []
    for case in cases:
        list(_steps(recording, _requests(recording, text, replace(case, sequences=1), f"first/{case}")))
    for number in range(rounds):
        for case in cases:
            samples += _steps(recording, _requests(recording, text, case, f"{number}/{case}"))
            recording.engine.cache.forget_finished()
    return samples


def fit_without_outliers(samples: Sequence[StepSample]) -> tuple[StepTimes, float]:
    """Returns the fitted times, and the median relative error of all samples.

    Of the samples near each knot the worst are left out, but never all: without them the knot would be lost.
    """
    errors = relative_errors(fit(samples), samples)
    by_knot = defaultdict[int | None, list[tuple[float, StepSample]]](list)
    for error, sample in zip(errors, samples, strict=True):
        by_knot[knot_near(sample.shape.rows)].append((error, sample))
    kept = [sample for near in by_knot.values() for sample in _without_the_worst(near)]
    times = fit(kept)
    return times, median(relative_errors(times, samples))


def kv_bytes_per_token(recording: RecordingEngine, text: PromptText) -> int:
    """Returns what the KV cache takes for a token. Call it while idle."""
    recording.engine.cache.forget_finished()
    list(_run(recording, [greedy("one block", text.message(_BLOCK - 1), 1)]))
    return recording.engine.cache.used_bytes // _BLOCK


@dataclass(frozen=True, slots=True)
class PromptCosts:
    """What the admission thread does with a chat, and the tokens that the chat template adds."""

    prepare_s: float
    prepare_token_s: float
    prepare_share: float  # see HostCosts
    first_overhead_tokens: int
    turn_overhead_tokens: int


def measure_prompts(recording: RecordingEngine, text: PromptText) -> PromptCosts:
    """Measures the prompts of a first and of a fourth turn."""
    window = recording.engine.limits.context_length
    length = min(100, window // 16)
    chats = [_chat(text, turns, length) for turns in (1, 2, 4)]
    counted = [_count(recording, chat) for chat in chats]
    (first, first_s), (second, _), (fourth, fourth_s) = counted
    per_token_s = max(0.0, (fourth_s - first_s) / (fourth - first))
    alone, _ = _decode_beside(recording, text, None)
    beside, prepared = _decode_beside(recording, text, chats[-1])
    extra_s = sum(beside) - len(beside) * mean(alone)
    return PromptCosts(
        prepare_s=max(0.0, first_s - per_token_s * first),
        prepare_token_s=per_token_s,
        prepare_share=max(0.0, extra_s) / (prepared * fourth_s),
        first_overhead_tokens=first - length,
        turn_overhead_tokens=second - first - 2 * length,
    )


def _without_the_worst(samples: list[tuple[float, StepSample]]) -> list[StepSample]:
    """Returns all but those with the largest errors."""
    samples.sort(key=itemgetter(0))
    return [sample for _, sample in samples[: len(samples) - int(_OUTLIERS * len(samples))]]


def _requests(recording: RecordingEngine, text: PromptText, case: Case, name: str) -> Iterator[Submit]:
    length = min(case.prompt_tokens, recording.engine.limits.context_length - case.reply_tokens - _BLOCK)
    for number in range(case.sequences):
        submit = greedy(f"{name}/{number}", text.message(length), case.reply_tokens)
        sampling = SamplingParams(max_tokens=case.reply_tokens, temperature=0, ignore_eos=True)
        yield Submit(submit.request_id, sampling, prompt=submit.prompt, scope=submit.scope)


def _steps(recording: RecordingEngine, submits: Iterator[Submit]) -> Iterator[StepSample]:
    for seconds in _run(recording, list(submits)):
        if recording.recorder.shape is not None:
            yield StepSample(recording.recorder.shape, seconds)
        recording.recorder.shape = None


def _run(recording: RecordingEngine, submits: Sequence[Submit]) -> Iterator[float]:
    """Runs the requests to their ends. Yields the seconds of each step."""
    for submit in submits:
        recording.engine.submit(submit)
    while not recording.engine.is_idle:
        began = time.perf_counter()
        recording.engine.step()
        yield time.perf_counter() - began


def _decode_beside(
    recording: RecordingEngine, text: PromptText, chat: Submit | None
) -> tuple[list[float], int]:
    """Returns the seconds of steps that decode, while the chat is prepared again and again, and how often."""
    for submit in _requests(recording, text, _BESIDE, f"beside {chat is not None}"):
        recording.engine.submit(submit)
    while recording.engine.waiting:
        recording.engine.step()
    seconds, prepared, is_asked = list[float](), 0, False
    while recording.engine.running == _BESIDE.sequences:
        if chat is not None and not is_asked:
            recording.engine.ask(CountTokens(f"beside {len(seconds)}", chat))
            is_asked = True
        began = time.perf_counter()
        answers = [message for message in recording.engine.step() if isinstance(message, TokenCount)]
        seconds.append(time.perf_counter() - began)
        prepared, is_asked = prepared + len(answers), is_asked and not answers
    while not recording.engine.is_idle:
        recording.engine.step()
    return seconds, prepared


def _chat(text: PromptText, turns: int, length: int) -> Submit:
    messages = [
        ChatMessage("assistant" if number % 2 else "user", text.message(length))
        for number in range(2 * turns - 1)
    ]
    return Submit("counted", SamplingParams(), messages=tuple(messages))


def _count(recording: RecordingEngine, chat: Submit) -> tuple[int, float]:
    """Returns the number of tokens and the least seconds that preparing them takes."""
    times = []
    for number in range(_COUNTS):
        began = time.perf_counter()
        recording.engine.ask(CountTokens(f"count {number}", chat))
        answers = recording.engine.step()
        while not answers:
            answers = recording.engine.step()
        times.append(time.perf_counter() - began)
    (tokens,) = (answer.tokens for answer in answers if isinstance(answer, TokenCount))
    return tokens, min(times)
