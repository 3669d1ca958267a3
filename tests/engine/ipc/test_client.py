"""The client of a worker, with a real worker process."""

import asyncio
import gc
from contextlib import closing
from pathlib import Path

from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import WorkerSpec


def test_start_that_is_given_up_leaves_no_complaint(tmp_path: Path) -> None:
    complaints: list[str] = []

    async def give_up(launcher: WorkerLauncher) -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        spec = WorkerSpec(str(tmp_path), "tiny")
        start = asyncio.create_task(WorkerClient.start(spec, launcher, report=lambda _: begun.set()))
        await asyncio.wait_for(begun.wait(), 30)
        start.cancel()
        await asyncio.wait((start,))

    with closing(WorkerLauncher()) as launcher:
        asyncio.run(give_up(launcher))
    gc.collect()
    assert complaints == []
