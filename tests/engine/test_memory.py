"""What is free within a container's limit."""

import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine.memory import card_bytes, free_bytes, page_out

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
def test_page_out_gives_a_mapped_file_back_and_changes_no_value(tmp_path: Path) -> None:
    save_file({"rows": torch.arange(2**24, dtype=torch.float32)}, tmp_path / "rows.safetensors")
    rows = load_file(tmp_path / "rows.safetensors")["rows"]
    total = rows.sum()  # reads every page
    shared = psutil.Process().memory_info().shared
    page_out(rows)
    assert psutil.Process().memory_info().shared < shared - rows.nbytes // 2
    assert rows.sum() == total


def test_page_out_leaves_memory_that_is_no_file_as_it_is() -> None:
    for size in (1, 10, 2**20):
        values = torch.arange(size)
        page_out(values)
        assert torch.equal(values, torch.arange(size))


def test_host_has_no_card() -> None:
    assert card_bytes(CPU) is None
