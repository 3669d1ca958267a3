"""Waiting for a worker that loads its model."""

import asyncio
import os
import signal
from itertools import cycle
from pathlib import Path
from socket import socket

import pytest

from app.core.errors import ModelLoadFailed
from app.engine.ipc.child_process import ChildProcess
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.load_outcome import LoadOutcome
from app.engine.ipc.messages import WorkerSpec
from tests.waiting import LIMIT_S


class StoppingLauncher(WorkerLauncher):
    """Stops each worker as soon as it is there."""

    async def launch(self, address: str, life_line: socket) -> ChildProcess:
        process = await super().launch(address, life_line)
        os.kill(process.pid, signal.SIGSTOP)
        return process


def test_a_worker_that_is_stopped_fails_long_before_its_silence_would_count(
    tmp_path: Path, shared_fork_server: Path
) -> None:
    async def scenario(launcher: WorkerLauncher) -> None:
        with pytest.raises(ModelLoadFailed, match="tiny was stopped by a signal"):
            await WorkerClient.start(WorkerSpec(str(tmp_path), "tiny"), launcher, stuck_after_s=1)

    asyncio.run(asyncio.wait_for(scenario(StoppingLauncher(shared_fork_server)), LIMIT_S))


def test_a_worker_that_was_stopped_for_a_moment_goes_on() -> None:
    async def scenario() -> None:
        looks = cycle([True] * 9 + [False])
        seen: list[bool] = []

        def is_stopped() -> bool:
            seen.append(next(looks))
            if len(seen) == 30:
                load.settle(ModelLoadFailed("the end of this test"))
            return seen[-1]

        load = LoadOutcome("tiny", is_stopped, 0.01, look_every_s=0.001)
        with pytest.raises(ModelLoadFailed, match="the end of this test"):
            await load.wait()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize("heard_at", [None, 25])
def test_a_silent_worker_fails_after_as_many_looks_as_the_limit_has(heard_at: int | None) -> None:
    """Looks, not time: after Ctrl-Z and `fg`, the worker goes on loading."""

    async def scenario() -> None:
        looks = 0

        def is_stopped() -> bool:
            nonlocal looks
            looks += 1
            if looks == heard_at:
                load.heard()
            return False

        load = LoadOutcome("tiny", is_stopped, 0.01, look_every_s=0.001, silence_s=0.03)
        with pytest.raises(ModelLoadFailed, match="tiny was silent"):
            await load.wait()
        assert looks == (31 if heard_at is None else 55)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
