"""What is free within a container's limit."""

from pathlib import Path

import pytest
import torch

from app.engine.memory import card_bytes, free_bytes

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


def test_host_has_no_card() -> None:
    assert card_bytes(CPU) is None
