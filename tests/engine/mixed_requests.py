"""Serves the built-in model thousands of mixed requests. Prints the memory before, after, and after a trim.

`python -m tests.engine.mixed_requests COUNT`, in a worker's environment. In bytes, with the KV cache's share.
"""

import random
import sys

import psutil  # type: ignore[import-untyped]  # ships no types

from app.core.catalogue import BUILTIN_PATH
from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit, WorkerSpec
from app.engine.startup import ReadyEngine, build_engine

KV_BYTES = 100_000_000
_AT_ONCE = 8
_CANCELLED_SHARE = 0.2
_WORDS = ("red", "sea", "sun", "ten", "the", "you", "name three colours", "what is seven plus five?")


def main(count: int) -> None:
    spec = WorkerSpec(str(BUILTIN_PATH), "builtin", threads=1, kv_cache_bytes=KV_BYTES)
    ready = build_engine(spec, lambda progress: None)
    _serve(ready, random.Random(0), 50)
    figures = [_resident_bytes()]
    _serve(ready, random.Random(1), count)
    figures.append(_resident_bytes())
    ready.trim()
    figures += [_resident_bytes(), ready.stats().kv_used_bytes]
    ready.close()
    sys.stdout.write(" ".join(map(str, figures)) + "\n")


def _serve(ready: ReadyEngine, choice: random.Random, count: int) -> None:
    """Some requests are served at once, and some of them are cancelled in the middle."""
    sent = 0
    while sent < count:
        batch = [_request(choice, sent + number) for number in range(_AT_ONCE)]
        for submit in batch:
            ready.engine.submit(submit)
        sent += _AT_ONCE
        cancelled = [each.request_id for each in batch if choice.random() < _CANCELLED_SHARE]
        steps = 0
        while not ready.engine.is_idle:
            ready.engine.step()
            steps += 1
            if steps % 5 == 0 and cancelled:
                ready.engine.cancel(cancelled.pop())


def _request(choice: random.Random, number: int) -> Submit:
    text = " ".join(choice.choices(_WORDS, k=choice.randint(1, 250)))
    sampling = SamplingParams(
        max_tokens=choice.randint(1, 30),
        temperature=choice.choice([0.0, 0.7, 1.2]),
        top_p=choice.choice([1.0, 0.9]),
        stop=("sea",) if choice.random() < 0.3 else (),
    )
    if choice.random() < 0.5:
        return Submit(str(number), sampling, prompt=text)
    return Submit(str(number), sampling, messages=(ChatMessage("user", text),))


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(int(sys.argv[1]))
