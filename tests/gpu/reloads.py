"""Loads and unloads a model again and again, in workers and in one process, and watches the card's memory."""

import argparse
import asyncio
import gc
import shutil
import subprocess
import time
from statistics import median

import torch

from app.core.catalogue import BUILTIN_PATH
from app.core.deadline import Deadline
from app.core.literals import Device
from app.engine.backend import ModelInput
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import SamplingParams, WorkerSpec
from tests.gpu.engines import built, greedy, record
from tests.gpu.figures import Figures

_LOADS = 50
_IN_PROCESS = 10
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
    took_s: list[float] = []
    used: list[int | None] = []
    began = time.monotonic()
    figures.add("card memory before, MB", _card_mb())
    try:
        while len(took_s) < _LOADS and time.monotonic() - began < _LIMIT_S:
            load_began = time.monotonic()
            client = await WorkerClient.start(spec, launcher)
            took_s.append(time.monotonic() - load_began)
            model_input = ModelInput(prompt="Hello")
            sampling = SamplingParams(max_tokens=8, temperature=0)
            async for _ in client.generate(model_input, sampling, Deadline.after(60)):
                pass
            await client.close()
            used.append(_card_mb())
            figures.add("loads in workers", len(took_s))
            figures.add("card memory after the first and the last, MB", f"{used[0]} {used[-1]}")
            figures.add("a load, s", median(took_s))
    finally:
        launcher.close()


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
