"""Downloads in processes that are killed at random moments: `killed.py URL CACHE TIMES`.

Prints how many were killed. The processes are forked, so that the imports happen once.
"""

import asyncio
import os
import random
import select
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import app.models.hub.downloads.download  # noqa: E402, F401  # imported before the forks
from app.core.catalogue import ModelProfile, Source  # noqa: E402
from app.models.hub.client import Hub  # noqa: E402
from app.models.hub.progress import Transfer  # noqa: E402

TINY = ModelProfile("tiny", "Tiny", "", (Source("owner/tiny"),), 100, 1, 1)


def download(url: str, cache: Path, pipe: int) -> None:
    def report(stage: str, fraction: float, transfer: Transfer | None = None) -> None:
        os.write(pipe, b".")

    asyncio.run(Hub(cache, endpoint=url).fetch(TINY, report))


def main() -> int:
    url, cache, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    draw, killed = random.Random(7), 0
    while killed < times:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            download(url, cache, theirs)
            os._exit(0)
        os.close(theirs)
        select.select([ours], [], [], 20)  # until it has begun
        select.select([child_end(child)], [], [], draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(ours)
        if os.WIFSIGNALED(status):
            killed += 1
        else:  # it was faster than the kill: begin again
            forget(cache)
    print(killed)  # noqa: T201
    return 0


def child_end(child: int) -> int:
    return os.pidfd_open(child)


def forget(cache: Path) -> None:
    for path in (*cache.glob("models--*/blobs/*"), *cache.glob("models--*/snapshots/*/*")):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
