"""Free and used memory, also within a container's limit."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine.memory import (
    MemoryUse,
    cache_budget,
    card_bytes,
    is_exhaustion,
    unchanged_mappings,
    unmap_files,
)
from tests.server import ROOT
from tests.waiting import LIMIT_S

CPU = torch.device("cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is used on Linux only")
def test_unmapping_files_gives_back_the_pages_of_all_their_tensors(tmp_path: Path) -> None:
    path, link = tmp_path / "rows.safetensors", tmp_path / "link.safetensors"
    save_file({name: torch.arange(2**22, dtype=torch.float32) for name in "abc"}, path)
    link.symlink_to(path)  # as in the Hub's cache
    tensors = load_file(link)
    totals = [rows.sum() for rows in tensors.values()]
    shared = psutil.Process().memory_info().shared
    unmap_files([link, tmp_path / "missing"])
    assert psutil.Process().memory_info().shared < shared - 5 * 2**23
    assert [rows.sum() for rows in tensors.values()] == totals


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is used on Linux only")
def test_unmapping_files_loses_no_change_of_a_tensor(tmp_path: Path) -> None:
    save_file({"rows": torch.zeros(2**20)}, tmp_path / "rows.safetensors")
    rows = load_file(tmp_path / "rows.safetensors")["rows"]
    rows[-1] = 1
    unmap_files([tmp_path / "rows.safetensors"])
    assert rows.sum() == 1


@pytest.mark.parametrize(
    ("anonymous", "in_swap", "is_unchanged"), [(0, 0, True), (4, 0, False), (0, 4, False)]
)
def test_changed_pages_may_be_in_swap_space(anonymous: int, in_swap: int, is_unchanged: bool) -> None:
    smaps = (
        "7f00-7f10 r--p 00000000 fe:00 26038      /models/a b.safetensors\n"
        f"Size: 8 kB\nAnonymous: {anonymous} kB\nAnonHugePages: 0 kB\nSwap: {in_swap} kB\nSwapPss: 0 kB\n"
    )
    expected = [(0x7F00, 0x7F10, "/models/a b.safetensors")] if is_unchanged else []
    assert list(unchanged_mappings(smaps)) == expected


def test_memory_shared_with_other_processes_counts_by_its_share(tmp_path: Path) -> None:
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("1000-2000 ---p 0 00:00 0 [rollup]\nRss: 70000 kB\nPss: 10000 kB\nPss_Dirty: 1 kB\n")
    alone = MemoryUse(CPU, tmp_path / "none").used_bytes
    assert MemoryUse(CPU, rollup).used_bytes == pytest.approx(alone - 60_000 * 1024, abs=10_000_000)


def test_exhausted_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as tensor:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as array:
        bytearray(2**62)
    mapping = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert all(map(is_exhaustion, (tensor.value, array.value, mapping, torch.OutOfMemoryError("full"))))
    texts = ("can't start new thread", "unable to mmap 7 bytes from file <x>: Cannot allocate memory (12)")
    assert all(is_exhaustion(RuntimeError(text)) for text in texts)
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2) @ torch.ones(3)
    assert not any(map(is_exhaustion, (shapes.value, FileNotFoundError(errno.ENOENT, ""), ValueError())))


def test_host_has_no_card() -> None:
    assert card_bytes(CPU) is None


@pytest.mark.parametrize(
    ("window_bytes", "free", "budget"),
    [
        (25_000_000, 100_000_000_000, 400_000_000),  # 16 windows of a small model
        (25_000_000, 100_000_000, 40_000_000),  # a share of little memory
        (2_000_000_000, 100_000_000_000, 8_000_000_000),  # the bound for large models
        (17_000_000_000, 100_000_000_000, 17_000_000_000),  # one window is beyond the bound
        (17_000_000_000, 10_000_000_000, 4_000_000_000),
    ],
)
def test_cache_budget_is_moderate(window_bytes: int, free: int, budget: int) -> None:
    assert cache_budget(CPU, window_bytes, 16, 20_000_000_000, free) == budget


@pytest.mark.parametrize(
    ("window_bytes", "weight_bytes", "budget"),
    [
        (190_000_000, 270_000_000, 1_000_000_000),
        (270_000_000, 2_500_000_000, 2_500_000_000),
        (40_000_000, 270_000_000, 640_000_000),  # what 16 windows need
        (1_500_000_000, 270_000_000, 1_500_000_000),
    ],
)
def test_cache_budget_of_a_small_model_is_small(window_bytes: int, weight_bytes: int, budget: int) -> None:
    assert cache_budget(CPU, window_bytes, 16, weight_bytes, 100_000_000_000) == budget


def test_cache_budget_of_a_card_is_a_share_of_its_memory() -> None:
    card = torch.device("cuda")
    assert cache_budget(card, 2_000_000_000, 16, 0, 80_000_000_000) == 32_000_000_000
    assert cache_budget(card, 9_000_000_000, 16, 0, 80_000_000_000) == 64_000_000_000


GROWS = """
import torch
from app.engine.kv.mapped import new_tensor
from app.engine.memory import bound_growth, is_exhaustion

bound_growth(200_000_000)
kept = bytearray(50_000_000)
for grow in (
    lambda: bytearray(400_000_000),
    lambda: torch.zeros(100_000_000),
    lambda: new_tensor(torch.zeros(1), [100_000_000]),
):
    try:
        grow()
    except (MemoryError, RuntimeError) as error:
        print(is_exhaustion(error))
kept = bytearray(100_000_000)
"""
MULTIPLIES = """
from tokenizers import normalizers
from app.engine.memory import bound_growth

bound_growth(200_000_000)
normalizers.Replace("a", "a" * 100_000).normalize_str("a" * 100_000)
"""
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can limit it")


def run_limited(script: str) -> subprocess.CompletedProcess[str]:
    """The result of a script in a process of its own, which may limit itself."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@linux_only
def test_process_that_grows_beyond_its_bound_gets_errors_and_goes_on() -> None:
    done = run_limited(GROWS)
    assert (done.returncode, done.stdout.split()) == (0, ["True"] * 3), done.stderr


@linux_only
def test_tokenizer_that_fills_the_memory_ends_its_process_before_the_machine_has_none_left() -> None:
    done = run_limited(MULTIPLIES)
    assert done.returncode == -signal.SIGABRT and "memory allocation" in done.stderr
