"""Loading and unloading a model repeatedly leaves no processes, threads, files or memory behind."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from tests.server import RunningServer, running_server
from tests.waiting import wait_for

MANY = pytest.param(100, marks=pytest.mark.slow)
TOLERANCE_BYTES = 4_000_000  # an interpreter's memory may grow this much; a worker's is far larger


@dataclass(frozen=True)
class Footprint:
    """The resources of a server process and its temporary folder."""

    resident_bytes: int
    children: int
    threads: int
    descriptors: int
    folders: int

    @classmethod
    def of(cls, server: RunningServer, temporary: Path) -> "Footprint":
        process = psutil.Process(server.process.pid)
        return cls(
            resident_bytes=process.memory_info().rss,
            children=len(process.children(recursive=True)),
            threads=process.num_threads(),
            descriptors=process.num_fds(),
            folders=len(list(temporary.glob("llm-*"))),
        )

    def exceeds(self, other: "Footprint") -> bool:
        counts = [(f.children, f.threads, f.descriptors, f.folders) for f in (self, other)]
        is_more = any(mine > before for mine, before in zip(*counts, strict=True))
        return is_more or self.resident_bytes > other.resident_bytes + TOLERANCE_BYTES


def load_and_unload(server: RunningServer, name: str, temporary: Path) -> Footprint:
    """The server's footprint after the model has been loaded, used and unloaded."""
    server.post("/api/v1/load-model", model_name=name)
    assert server.chat("hello", model_name=name, max_tokens=2)["model_name"] == name
    assert server.post("/api/v1/unload-model", model_name=name)["was_loaded"]
    return Footprint.of(server, temporary)


def footprints(folder: Path, cache: Path, name: str, rounds: int) -> list[Footprint]:
    """The server's footprint after each of so many loads."""
    settings = {"LLM_MODEL_NAME": "none", "LLM_MODEL_CACHE_DIR": str(cache)}
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,  # a socket in a long path would be elsewhere
        running_server(folder, TMPDIR=short, **settings) as server,
    ):
        temporary = Path(short)
        found = [load_and_unload(server, name, temporary) for _ in range(rounds)]
        # Threads and connections end a little later.
        wait_for(lambda: not Footprint.of(server, temporary).exceeds(found[0]), "all resources to be freed")
    return found


@pytest.mark.parametrize("rounds", [3, MANY])
def test_load_and_unload_leave_nothing_behind(
    tmp_path: Path, cache_with_tiny_gpt2: Path, rounds: int
) -> None:
    last = footprints(tmp_path, cache_with_tiny_gpt2, "gpt2", rounds)[-1]
    assert last.children == last.folders == 1  # the fork server, and the folder of its socket
