"""A model that comes and goes leaves nothing behind in the server, however often."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

from tests.server import RunningServer, running_server, wait_for

ROUNDS = int(os.environ.get("LOAD_ROUNDS", "3"))
ROOM_BYTES = 4_000_000  # what an interpreter's memory may grow by itself; a leak of a worker's is far more


@dataclass(frozen=True)
class Footprint:
    """What the server holds of the machine."""

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
        return is_more or self.resident_bytes > other.resident_bytes + ROOM_BYTES


def come_and_go(server: RunningServer, name: str, temporary: Path) -> Footprint:
    server.post("/api/v1/load-model", model_name=name)
    assert server.chat("hello", model_name=name, max_tokens=2)["model_name"] == name
    assert server.post("/api/v1/unload-model", model_name=name)["was_loaded"]
    return Footprint.of(server, temporary)


def rounds(folder: Path, cache: Path, name: str) -> list[Footprint]:
    temporary = folder / "tmp"
    temporary.mkdir()
    settings = {"LLM_MODEL_NAME": "none", "LLM_MODEL_CACHE_DIR": str(cache), "TMPDIR": str(temporary)}
    with running_server(folder, **settings) as server:
        found = [come_and_go(server, name, temporary) for _ in range(ROUNDS)]
        # Threads and connections end in their own time.
        wait_for(lambda: not Footprint.of(server, temporary).exceeds(found[0]), "what is left to go", 10)
    return found


def test_load_and_unload_leave_nothing_behind(tmp_path: Path, cache_with_tiny_gpt2: Path) -> None:
    last = rounds(tmp_path, cache_with_tiny_gpt2, "gpt2")[-1]
    assert last.children == last.folders == 0
