"""Free and used memory, also within a container's limit."""

import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine.memory import MemoryUse, card_bytes, free_bytes, page_out

CPU = torch.device("cpu")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize("statistics", ["anon 60\ninactive_file 30\nactive_file 5\n", "inactive_file 30\n"])
def test_free_bytes_counts_the_page_cache_as_free(tmp_path: Path, statistics: str) -> None:
    write(tmp_path, memory__max="100\n", memory__current="95\n", memory__stat=statistics)
    assert free_bytes(CPU, tmp_path) == 35


def test_free_bytes_version_1_counts_the_page_cache_as_free(tmp_path: Path) -> None:
    statistics = "inactive_file 7\ntotal_inactive_file 30\n"
    write(
        tmp_path / "memory",
        memory__limit_in_bytes="100",
        memory__usage_in_bytes="95",
        memory__stat=statistics,
    )
    assert free_bytes(CPU, tmp_path) == 35


def test_free_bytes_without_statistics_is_limit_less_use(tmp_path: Path) -> None:
    write(tmp_path, memory__max="100", memory__current="95")
    assert free_bytes(CPU, tmp_path) == 5
    write(tmp_path, memory__stat="garbage")
    assert free_bytes(CPU, tmp_path) == 5


def test_free_bytes_without_a_limit_is_the_hosts(tmp_path: Path) -> None:
    write(tmp_path, memory__max="max", memory__current="95")
    assert free_bytes(CPU, tmp_path) > 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is used on Linux only")
def test_page_out_drops_pages_of_a_mapped_file_and_changes_no_value(tmp_path: Path) -> None:
    save_file({"rows": torch.arange(2**24, dtype=torch.float32)}, tmp_path / "rows.safetensors")
    rows = load_file(tmp_path / "rows.safetensors")["rows"]
    total = rows.sum()  # reads every page
    shared = psutil.Process().memory_info().shared
    page_out(rows)
    assert psutil.Process().memory_info().shared < shared - rows.nbytes // 2
    assert rows.sum() == total


def test_page_out_changes_no_value_of_ordinary_memory() -> None:
    for size in (1, 10, 2**20):
        values = torch.arange(size)
        page_out(values)
        assert torch.equal(values, torch.arange(size))


def test_memory_shared_with_other_processes_counts_by_its_share(tmp_path: Path) -> None:
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("1000-2000 ---p 0 00:00 0 [rollup]\nRss: 70000 kB\nPss: 10000 kB\nPss_Dirty: 1 kB\n")
    alone = MemoryUse(CPU, tmp_path / "none").used_bytes
    assert MemoryUse(CPU, rollup).used_bytes == pytest.approx(alone - 60_000 * 1024, abs=10_000_000)


def test_host_has_no_card() -> None:
    assert card_bytes(CPU) is None
