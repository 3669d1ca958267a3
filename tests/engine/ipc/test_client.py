"""The client of a worker, with a real worker process."""

import asyncio
import gc
import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from app.core.errors import DomainError, ModelUnavailable
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import WorkerSpec
from tests.server import ROOT
from tests.waiting import LIMIT_S


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


def test_a_model_that_makes_a_library_complain_at_length_fails_with_a_short_message(
    tmp_path: Path, shared_fork_server: Path
) -> None:
    folder = shutil.copytree(ROOT / "app" / "builtin" / "weights", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_types": ["x"] * 10_000}))

    async def load(launcher: WorkerLauncher) -> DomainError:
        with pytest.raises(ModelUnavailable) as refused:
            await WorkerClient.start(WorkerSpec(str(folder), "tiny"), launcher)
        return refused.value

    error = asyncio.run(asyncio.wait_for(load(WorkerLauncher(shared_fork_server)), LIMIT_S))
    assert "layer_types" in error.message and len(error.message) < 2_000
