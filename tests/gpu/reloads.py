"""Loads and unloads a model again and again, in workers and in one process, and watches the card's memory."""

import argparse
import asyncio
import gc
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from statistics import median

import torch

from app.core.catalogue import BUILTIN_PATH
from app.core.deadline import Deadline
from app.core.literals import Device
from app.engine.backend import ModelInput
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import Progress, SamplingParams, WorkerSpec
from tests.gpu.engines import built, greedy, record
from tests.gpu.figures import Figures

_LOADS = 50
_AT_ONCE = 5
_IN_PROCESS = 5
_LIMIT_S = 80.0  # for the loads in workers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    device: Device = parser.parse_args().device
    spec = WorkerSpec(str(BUILTIN_PATH), "builtin", device=device, kv_cache_bytes=100_000_000)
    figures = Figures()
    asyncio.run(_in_workers(spec, figures))
    _in_one_process(spec, figures)


async def _in_workers(spec: WorkerSpec, figures: Figures) -> None:
    launcher = WorkerLauncher()
    loads: list[_Load] = []
    used: list[int | None] = []
    began = time.monotonic()
    figures.add("card memory before, MB", _card_mb())
    try:
        while len(loads) < _LOADS and time.monotonic() - began < _LIMIT_S:
            count = min(_AT_ONCE, _LOADS - len(loads)) if loads else 1  # the first also waits for imports
            loads += await asyncio.gather(*(_load(spec, launcher) for _ in range(count)))
            used.append(_card_mb())
            figures.add("loads in workers", len(loads))
            figures.add("card memory after each round, MB", str(used))
            figures.add("a load, s", median(load.seconds for load in loads))
            figures.add("stages of the newest load, s", loads[-1].stages)
    finally:
        launcher.close()


@dataclass(slots=True)
class _Load:
    """How long loading took in all, and each of its stages."""

    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    begun: list[tuple[float, str]] = field(default_factory=list)

    def report(self, progress: Progress) -> None:
        if not self.begun or self.begun[-1][1] != progress.stage:
            self.begun.append((time.monotonic(), progress.stage))

    def finish(self) -> None:
        times = [*(at for at, _ in self.begun), time.monotonic()]
        self.seconds = times[-1] - times[0]
        for (at, stage), end in zip(self.begun, times[1:], strict=True):
            self.stages[stage] = round(self.stages.get(stage, 0.0) + end - at, 2)


async def _load(spec: WorkerSpec, launcher: WorkerLauncher) -> _Load:
    """Loads the model, gets a reply and unloads it."""
    load = _Load()
    client = await WorkerClient.start(spec, launcher, report=load.report)
    load.finish()
    try:
        sampling = SamplingParams(max_tokens=8, temperature=0)
        async for _ in client.generate(ModelInput(prompt="Hello"), sampling, Deadline.after(60)):
            pass
    finally:
        await client.close()
    return load


def _in_one_process(spec: WorkerSpec, figures: Figures) -> None:
    allocated = []
    for _ in range(_IN_PROCESS):
        with built(spec) as ready:
            record(ready, [greedy("a", "Hello", 8)])
        del ready
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            allocated.append(torch.cuda.memory_reserved() // 10**6)
    figures.add("reserved after each load in one process, MB", allocated)


def _card_mb() -> int | None:
    """Returns the memory that all processes use on the card; None without a card."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(
        subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    )


if __name__ == "__main__":
    main()
