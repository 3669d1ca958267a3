"""The compiled product is found, made or done without, and shares torch's threads."""

import logging
import os
from pathlib import Path

import pytest
import torch

from app.engine.execution.rows.kernels import load_kernels
from app.engine.layers.compiled.compiler import CompilationError, Compiler, find_compiler
from app.engine.layers.compiled.product import best_instructions, grouped_product, load_product
from tests.engine.layers.compiled.conftest import AVAILABLE, needs_product

pytestmark = needs_product


def test_best_instructions_are_the_first_that_the_processor_has_and_torch_uses() -> None:
    has_all = torch.backends.cpu.get_cpu_capability() == "AVX512"
    usable = [name for name in AVAILABLE if has_all or not name.startswith("avx512")]
    assert best_instructions() == usable[0]


def test_product_is_loaded_once_for_a_process() -> None:
    assert grouped_product() is grouped_product() is not None


def test_product_uses_the_threads_of_torch(tmp_path: Path) -> None:
    load_product(AVAILABLE[-1], tmp_path, find_compiler(os.environ))
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "gomp" in line}
    assert len(mapped) == 1


def test_folder_that_cannot_be_written_to_costs_only_the_library(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "home"
    file.touch()
    with caplog.at_level(logging.WARNING):
        assert load_product(AVAILABLE[-1], file / "cache", find_compiler(os.environ)) is not None
    assert "cannot be kept" in caplog.text and str(file) in caplog.text


def test_damaged_library_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_product(AVAILABLE[-1], tmp_path / "good", find_compiler(os.environ))
    (good,) = (tmp_path / "good").iterdir()
    damaged = tmp_path / "damaged" / good.name
    damaged.parent.mkdir(0o700)
    damaged.write_bytes(b"\x7fELF and then nothing")
    damaged.chmod(0o700)
    load_product(AVAILABLE[-1], damaged.parent, find_compiler(os.environ))
    assert "cannot be kept" in caplog.text
    load_product(AVAILABLE[-1], damaged.parent, find_compiler(os.environ))
    assert damaged.read_bytes() == good.read_bytes()


def test_compiler_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompilationError, match="false"):
        load_product(AVAILABLE[-1], tmp_path, Compiler(["false"]))


def test_machine_without_room_for_a_library_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(CompilationError, match="home.*gone"):
        load_product(AVAILABLE[-1], tmp_path / "home" / "cache", find_compiler(os.environ), tmp_path / "gone")


def counting_compiler(path: Path, work: str, limit_s: float = 60) -> tuple[Compiler, Path]:
    """Returns a compiler that does `work` after it has said its version, and the list of its runs."""
    runs = path.with_name("runs")
    path.write_text(f'#!/bin/sh\necho >> {runs}; [ "$1" = --version ] || {work}\n')
    path.chmod(0o700)
    return Compiler([str(path)], limit_s), runs


def test_compiler_that_hangs_is_not_tried_again(tmp_path: Path) -> None:
    hangs, runs = counting_compiler(tmp_path / "hangs", "exec sleep 1000", limit_s=2)
    with pytest.raises(CompilationError, match="took too long"):
        load_product(AVAILABLE[-1], tmp_path / "cache", hangs)
    with pytest.raises(CompilationError, match="no time is left"):
        load_kernels(AVAILABLE[-1], tmp_path / "cache", hangs)
    assert len(runs.read_text().splitlines()) == 2


def test_compiler_is_asked_for_its_version_once(tmp_path: Path) -> None:
    compiler, runs = counting_compiler(
        tmp_path / "compiles", f'exec {find_compiler(os.environ).command[0]} "$@"'
    )
    load_product(AVAILABLE[-1], tmp_path / "cache", compiler)
    load_kernels(AVAILABLE[-1], tmp_path / "cache", compiler)
    assert len(runs.read_text().splitlines()) == 3
