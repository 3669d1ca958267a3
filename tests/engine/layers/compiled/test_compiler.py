"""Libraries are made once, and none is loaded that another user may have written."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.engine.layers.compiled.compiler import CompilationError, compiled, find_compiler

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "answer.c"
    file.write_text("int answer(void) { return 42; }\n")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "compiled"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@needs_compiler
def test_library_is_made_once(source: Path, folder: Path) -> None:
    library = compiled(source, (), ["gcc"], folder)
    made = library.stat().st_mtime_ns
    assert compiled(source, (), ["gcc"], folder) == library
    assert library.stat().st_mtime_ns == made
    assert (folder.stat().st_mode & 0o777, library.stat().st_mode & 0o777) == (0o700, 0o700)


@needs_compiler
def test_other_sources_and_flags_make_other_libraries(source: Path, folder: Path) -> None:
    libraries = {compiled(source, (), ["gcc"], folder), compiled(source, ("-DX=1",), ["gcc"], folder)}
    source.write_text("int answer(void) { return 43; }\n")
    libraries.add(compiled(source, (), ["gcc"], folder))
    assert len(libraries) == 3


@needs_compiler
def test_several_workers_may_compile_at_once(source: Path, folder: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: compiled(source, (), ["gcc"], folder), range(4)))
    assert [*folder.iterdir()] == [*made]


def open_to_others(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def link_elsewhere(folder: Path) -> None:
    folder.parent.mkdir()
    folder.symlink_to("/tmp")


def file_in_its_place(folder: Path) -> None:
    folder.parent.write_text("")


@pytest.mark.parametrize("spoil", [open_to_others, link_elsewhere, file_in_its_place])
@needs_compiler
def test_folder_of_others_is_refused(source: Path, folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(CompilationError, match="compiled"):
        compiled(source, (), ["gcc"], folder)


@needs_compiler
def test_library_that_others_may_have_written_is_made_anew(source: Path, folder: Path) -> None:
    library = compiled(source, (), ["gcc"], folder)
    content = library.read_bytes()
    library.write_text("hostile")
    library.chmod(0o777)
    assert compiled(source, (), ["gcc"], folder).read_bytes() == content
    hostile = source.with_name("hostile.so")
    library.replace(hostile)
    library.symlink_to(hostile)
    assert not compiled(source, (), ["gcc"], folder).is_symlink()


@needs_compiler
def test_failing_compiler_is_quoted_and_leaves_nothing(source: Path, folder: Path) -> None:
    source.write_text("no C at all")
    with pytest.raises(CompilationError, match="error"):
        compiled(source, (), ["gcc"], folder)
    assert [*folder.iterdir()] == []


def test_compiler_that_cannot_be_run_is_an_error(source: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CompilationError, match="gone"):
        compiled(source, (), [str(tmp_path / "gone")], folder)


def test_compiler_is_the_one_that_the_environment_names(tmp_path: Path) -> None:
    gcc = script(tmp_path / "gcc", "exit 0")
    assert find_compiler({"PATH": str(tmp_path)}) == ["gcc"]
    assert find_compiler({"PATH": os.defpath, "CC": f"{gcc} -m64"}) == [gcc, "-m64"]


def test_quotation_in_the_environment_that_does_not_end_is_an_error() -> None:
    with pytest.raises(CompilationError, match="quotation"):
        find_compiler({"PATH": os.defpath, "CC": "gcc '"})


def test_messages_of_a_compiler_may_be_in_any_encoding(source: Path, folder: Path, tmp_path: Path) -> None:
    greets = r"printf '\351\n'"  # no UTF-8
    makes = script(
        tmp_path / "makes", f'{greets}; for last; do :; done; [ "$1" = --version ] || echo > "$last"'
    )
    assert compiled(source, (), [makes], folder).is_file()
    fails = script(tmp_path / "fails", f"{greets} >&2; exit 1")
    with pytest.raises(CompilationError, match="fails"):
        compiled(source, (), [fails], folder)


@pytest.mark.parametrize("cc", [{}, {"CC": ""}, {"CC": "none"}])
def test_missing_compiler_is_an_error(tmp_path: Path, cc: dict[str, str]) -> None:
    with pytest.raises(CompilationError, match="no C compiler"):
        find_compiler({"PATH": str(tmp_path), **cc})
