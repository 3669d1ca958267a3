"""Serves the built-in model 200 prompts of different lengths. Prints the bytes by which the process grew.

`python -m tests.engine.many_lengths FOLDER`, in a worker's environment.
"""

import random
import sys

import psutil  # type: ignore[import-untyped]  # ships no types

from app.engine.ipc.messages import SamplingParams, Submit, WorkerSpec
from app.engine.startup import ReadyEngine, build_engine

_LENGTHS = range(2, 401, 2)  # in words, each a token or two
_KV_BYTES = 20_000_000
_WORDS = ("red", "sea", "sun", "ten", "the", "you")


def main(folder: str) -> None:
    ready = build_engine(
        WorkerSpec(folder, "model", threads=1, kv_cache_bytes=_KV_BYTES), lambda progress: None
    )
    _serve(ready, 1)
    before = _resident_bytes()
    for words in _LENGTHS:
        _serve(ready, words)
    ready.trim()
    sys.stdout.write(f"{_resident_bytes() - before}\n")


def _serve(ready: ReadyEngine, words: int) -> None:
    prompt = " ".join(random.Random(words).choices(_WORDS, k=words))
    sampling = SamplingParams(max_tokens=2, temperature=0)
    ready.engine.submit(Submit("a", sampling, prompt=prompt, scope=str(words)))
    while not ready.engine.is_idle:
        ready.engine.step()


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(sys.argv[1])
