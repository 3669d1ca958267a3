"""Libraries are made once, and none is loaded that another user may have written."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from app.engine.layers.compiled.compiler import CompilationError, Compiler, compiled, find_compiler

LONG_S = 1e6
GCC = Compiler(("gcc",), LONG_S)
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
    library = compiled(source, (), GCC, folder)
    made = library.stat().st_mtime_ns
    assert compiled(source, (), GCC, folder) == library
    assert library.stat().st_mtime_ns == made
    assert (folder.stat().st_mode & 0o777, library.stat().st_mode & 0o777) == (0o700, 0o700)


@needs_compiler
def test_other_sources_and_flags_make_other_libraries(source: Path, folder: Path) -> None:
    libraries = {compiled(source, (), GCC, folder), compiled(source, ("-DX=1",), GCC, folder)}
    source.write_text("int answer(void) { return 43; }\n")
    libraries.add(compiled(source, (), GCC, folder))
    assert len(libraries) == 3


@needs_compiler
def test_several_workers_may_compile_at_once(source: Path, folder: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: compiled(source, (), GCC, folder), range(4)))
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
        compiled(source, (), GCC, folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@needs_compiler
def test_folder_that_others_may_replace_is_refused(source: Path, open_folder: Path) -> None:
    shared = open_folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(CompilationError, match="others may write to .*shared$"):
        compiled(source, (), GCC, shared / "compiled")
    shared.chmod(0o1777)  # like /tmp: only the owner removes entries
    assert compiled(source, (), GCC, shared / "compiled").is_file()


@needs_compiler
def test_folders_below_one_that_others_cannot_enter_may_be_open(source: Path, open_folder: Path) -> None:
    open_folder.chmod(0o700)
    shared = open_folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert compiled(source, (), GCC, shared / "compiled").is_file()


@needs_compiler
def test_library_that_others_may_have_written_is_made_anew(source: Path, folder: Path) -> None:
    library = compiled(source, (), GCC, folder)
    content = library.read_bytes()
    library.write_text("hostile")
    library.chmod(0o777)
    assert compiled(source, (), GCC, folder).read_bytes() == content
    hostile = source.with_name("hostile.so")
    library.replace(hostile)
    library.symlink_to(hostile)
    assert not compiled(source, (), GCC, folder).is_symlink()


@needs_compiler
def test_failing_compiler_is_quoted_and_leaves_nothing(source: Path, folder: Path) -> None:
    source.write_text("no C at all")
    with pytest.raises(CompilationError, match="error"):
        compiled(source, (), GCC, folder)
    assert [*folder.iterdir()] == []


def test_compiler_that_cannot_be_run_is_an_error(source: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CompilationError, match="gone"):
        compiled(source, (), Compiler((str(tmp_path / "gone"),), LONG_S), folder)


def test_compiler_is_the_one_that_the_environment_names(tmp_path: Path) -> None:
    gcc = script(tmp_path / "gcc", "exit 0")
    assert find_compiler({"PATH": str(tmp_path)}).command == ("gcc",)
    assert find_compiler({"PATH": os.defpath, "CC": f"{gcc} -m64"}).command == (gcc, "-m64")


def test_quotation_in_the_environment_that_does_not_end_is_an_error() -> None:
    with pytest.raises(CompilationError, match="quotation"):
        find_compiler({"PATH": os.defpath, "CC": "gcc '"})


def test_messages_of_a_compiler_may_be_in_any_encoding(source: Path, folder: Path, tmp_path: Path) -> None:
    greets = r"printf '\351\n'"  # no UTF-8
    makes = script(
        tmp_path / "makes", f'{greets}; for last; do :; done; [ "$1" = --version ] || echo > "$last"'
    )
    assert compiled(source, (), Compiler((makes,), LONG_S), folder).is_file()
    fails = script(tmp_path / "fails", f"{greets} >&2; exit 1")
    with pytest.raises(CompilationError, match="fails"):
        compiled(source, (), Compiler((fails,), LONG_S), folder)


@pytest.mark.parametrize("cc", [{}, {"CC": ""}, {"CC": "none"}])
def test_missing_compiler_is_an_error(tmp_path: Path, cc: dict[str, str]) -> None:
    with pytest.raises(CompilationError, match="no C compiler"):
        find_compiler({"PATH": str(tmp_path), **cc})


def test_compiler_that_hangs_is_ended_with_its_programs(source: Path, folder: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    hangs = script(
        tmp_path / "hangs", f'[ "$1" = --version ] && exit; sleep 1000 & echo $! > {started}; wait'
    )
    compiler = find_compiler({"PATH": os.defpath, "CC": hangs}, limit_s=2)
    with pytest.raises(CompilationError, match="hangs took too long"):
        compiled(source, (), compiler, folder)
    assert _has_ended(int(started.read_text()))
    assert [*folder.iterdir()] == []
    started.unlink()
    with pytest.raises(CompilationError, match="no time is left"):
        compiled(source, (), compiler, folder)
    assert not started.exists()


def _has_ended(pid: int) -> bool:
    """Returns whether the process ends within ten seconds."""
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # nobody reaps it
    return True


@needs_compiler
def test_build_that_was_killed_is_removed_when_it_is_stale(source: Path, folder: Path) -> None:
    library = compiled(source, (), GCC, folder)
    stale, recent = folder / "compiling-stale", folder / "compiling-recent"
    for build in (stale, recent):
        build.mkdir()
        (build / "part.o").touch()
    long_ago = time.time() - 7200
    os.utime(stale, (long_ago, long_ago))
    compiled(source, (), GCC, folder)
    assert {*folder.iterdir()} == {library, recent}


def test_compiler_keeps_temporary_files_in_its_folder(source: Path, folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    makes = script(
        tmp_path / "makes",
        f'for last; do :; done; [ "$1" = --version ] || echo $TMPDIR | tee {notes} > "$last"',
    )
    compiled(source, (), Compiler((makes,), LONG_S), folder)
    assert Path(notes.read_text().strip()).parent == folder
