"""A tiny repository, profiles that name it, and a fetch with a time limit, for the tests of the hub."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.core.catalogue import CATALOGUE, ModelProfile, Source
from app.models.hub.client import Hub, Weights
from app.models.hub.progress import Transfer
from app.models.hub.threads import NetworkTimeouts
from tests.hub.standin import StandInHub

TINY = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights" * 10_000}
SECRET = "hf_secret"
FETCH_TIMEOUT_S = 60.0  # less than a connection attempt takes if its packets are dropped
HASTY = NetworkTimeouts(probe_s=0.3, read_s=0.3, retry_s=0.01)


@dataclass
class Reports:
    """Everything a fetch reports."""

    stages: list[tuple[str, float]] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)

    def __call__(self, stage: str, fraction: float, transfer: Transfer | None = None) -> None:
        self.stages.append((stage, fraction))
        if transfer is not None:
            self.transfers.append(transfer)


def make_folder(folder: Path, files: dict[str, bytes] = TINY) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def profile(*locations: str, **fields: Any) -> ModelProfile:
    return replace(CATALOGUE["gpt2"], sources=tuple(Source(location, **fields) for location in locations))


def hub_of(standin: StandInHub, cache: Path, token: str | None = SECRET) -> Hub:
    return Hub(cache, token=token, endpoint=standin.url, timeouts=HASTY)


def fetch(hub: Hub, wanted: ModelProfile) -> tuple[Weights, Reports]:
    """The weights and all reported progress."""
    reports = Reports()
    return asyncio.run(asyncio.wait_for(hub.fetch(wanted, reports), FETCH_TIMEOUT_S)), reports
