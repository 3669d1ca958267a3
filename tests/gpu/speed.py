"""Measures the engine with a generated model: decoding, prefill, and loading, beside the memory bandwidth."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from app.core.literals import Device, Role
from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit, WorkerSpec
from app.engine.startup import ReadyEngine
from tests.benchmarks import folders
from tests.benchmarks.vocabulary import Words
from tests.gpu.engines import built, folder_of, graph_shapes, greedy, record, shape_of
from tests.gpu.figures import Figures

COUNTS = (1, 8, 64)
PROMPT_TOKENS, REPLY_TOKENS = 128, 128
PREFILLS = (512, 4000)
_COPY_BYTES = 2**31
_REPETITIONS = 3
_ROLES: tuple[Role, ...] = ("user", "assistant", "user")


def main() -> None:
    options = parser().parse_args()
    shape = shape_of(options.model, small=options.small)
    folder = folder_of(shape, options.cache)
    window = min(8192, int(shape.config.max_position_embeddings))
    figures, words = Figures(), Words(shape.vocabulary)
    limit = memory_limit(folder, options.device)
    if limit is not None:
        figures.add("limit of one sequence by bandwidth, tok/s", limit)
    began = time.perf_counter()
    with built(spec_of(folder, options.device, window)) as ready:
        figures.add("load in this process, s", time.perf_counter() - began)
        figures.add("memory, MB", ready.info.memory_bytes / 1e6)
        _prefill(ready, words, window, figures)
        _next_turn(ready, words, window, figures)
        for count in COUNTS:
            _decode(ready, words, count, figures)
        _long(ready, words, window, figures)
        figures.add("CUDA graphs", str(graph_shapes(ready)))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("model", nargs="?", default="llama3-1b")
    made.add_argument("--device", choices=("cuda", "cpu"), required=True)
    made.add_argument("--cache", type=Path, required=True)
    made.add_argument("--small", action="store_true")
    return made


def spec_of(folder: Path, device: Device, window: int) -> WorkerSpec:
    return WorkerSpec(
        str(folder),
        "measured",
        device=device,
        dtype="bfloat16",
        context_length=window,
        max_active_requests=max(COUNTS),
    )


def memory_limit(folder: Path, device: Device) -> float | None:
    """Returns the tokens per second of one sequence at the speed of copying; None if there is no card."""
    if device != "cuda":
        return None
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = min(timed(lambda: target.copy_(source)) for _ in range(10))
    return 2 * _COPY_BYTES / seconds / folders.bytes_per_token(folder, 2)


def timed(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _prefill(ready: ReadyEngine, words: Words, window: int, figures: Figures) -> None:
    for tokens in PREFILLS:
        length = min(tokens, window - 32)
        times = [
            record(ready, [greedy(f"p{tokens}-{number}", words.message(length), 1)]).first_s
            for number in range(_REPETITIONS + 1)
        ]
        figures.add(f"prefill of {length} tokens, ms", 1000 * median(times[1:]))


def _next_turn(ready: ReadyEngine, words: Words, window: int, figures: Figures) -> None:
    """The second turn of a conversation whose first message is long."""
    length = min(PREFILLS[-1], window - 96)
    times = []
    for number in range(_REPETITIONS):
        texts = (words.message(length), "Yes.", words.message(16))
        history = tuple(ChatMessage(role, text) for role, text in zip(_ROLES, texts, strict=True))
        sampling = SamplingParams(max_tokens=1, temperature=0)
        turns = [
            record(ready, [Submit(f"turn {number}/{turn}", sampling, history[:turn])]) for turn in (1, 3)
        ]
        times.append(turns[-1].first_s)
    figures.add(f"next turn after {length} tokens, first token, ms", 1000 * median(times))


def _decode(ready: ReadyEngine, words: Words, count: int, figures: Figures) -> None:
    """The first round captures graphs and lets the cache grow; the second is measured."""
    for name in ("first", "second"):
        submits = [
            greedy(f"{name}-{count}-{number}", words.message(PROMPT_TOKENS), REPLY_TOKENS)
            for number in range(count)
        ]
        recording = record(ready, submits)
        if name == "first":
            longest = max(b - a for a, b in zip(recording.ends, recording.ends[1:], strict=False))
            figures.add(f"{count} sequences, longest step of the first round, ms", 1000 * longest)
    took = recording.ends[-1] - recording.began
    figures.add(f"{count} sequences, decoding, tok/s", recording.decode_rate)
    figures.add(f"{count} sequences, with prefill, tok/s", sum(recording.counts) / took)


def _long(ready: ReadyEngine, words: Words, window: int, figures: Figures) -> None:
    """Decoding far into the window."""
    length = min(PREFILLS[-1], window - 160)
    for name in ("first", "second"):
        recording = record(ready, [greedy(f"long-{name}", words.message(length), REPLY_TOKENS)])
    figures.add(f"1 sequence after {length} tokens, decoding, tok/s", recording.decode_rate)


if __name__ == "__main__":
    main()
