import asyncio
import subprocess
import sys
import threading

import pytest

from app.models.hub.threads import in_thread
from tests.server import ROOT

HANGS = """
import asyncio, threading
from app.models.hub.threads import in_thread

async def give_up():
    await asyncio.wait_for(in_thread(threading.Event().wait), 0.01)

try:
    asyncio.run(give_up())
except TimeoutError:
    print("given up")
"""


def test_in_thread_returns_or_raises_the_outcome() -> None:
    async def both() -> int:
        with pytest.raises(KeyError):
            await in_thread(lambda: dict[str, int]()["missing"])
        return await in_thread(lambda: threading.get_ident())

    assert asyncio.run(both()) != threading.get_ident()


def test_hung_thread_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "given up\n")
