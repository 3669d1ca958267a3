"""Compiles C files of this project when they are first used, and keeps the libraries in a private folder."""

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fopenmp", "-ffp-contract=off")
_TIMEOUT_S = 120.0
_LONGEST_REASON = 300  # characters of the compiler's messages


class CompilationError(Exception):
    """The library could not be made. The text says why."""


def find_compiler(environment: Mapping[str, str]) -> list[str]:
    """Returns the command of the C compiler that `CC` names, else gcc or cc.

    Raises CompilationError if there is none.
    """
    for command in _commands(environment):
        if command and shutil.which(command[0], path=environment.get("PATH")):
            return command
    named = f" (CC={environment['CC']})" if "CC" in environment else ""
    raise CompilationError(f"there is no C compiler{named}")


def _commands(environment: Mapping[str, str]) -> list[list[str]]:
    if "CC" not in environment:
        return [["gcc"], ["cc"]]
    try:
        return [shlex.split(environment["CC"])]
    except ValueError as error:  # a quotation that does not end
        raise CompilationError(f"CC={environment['CC']}: {error}") from error


def compiled(source: Path, flags: Sequence[str], compiler: Sequence[str], folder: Path) -> Path:
    """Returns the library that the compiler makes of `source`, or has made before, in `folder`.

    The folder is created if need be. Several processes may compile into it at the same time.

    Raises CompilationError if the compiler fails, or if others may write into the folder.
    """
    try:
        _make_private(folder)
        library = folder / f"{source.stem}-{_digest(source, flags, compiler)}.so"
        if not _is_private(library, stat.S_ISREG):
            _compile(source, flags, compiler, library)
        return library
    except OSError as error:
        raise CompilationError(f"{folder}: {error.strerror or error}") from error


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder, stat.S_ISDIR):
        raise CompilationError(f"others may write to {folder}")


def _is_private(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Returns whether the path is of this kind and this user's, and nobody else may write to it."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    others_may_write = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not others_may_write


def _digest(source: Path, flags: Sequence[str], compiler: Sequence[str]) -> str:
    """Returns a name for all that the library depends on."""
    parts = (
        source.read_text("utf-8"),
        _run([*compiler, "--version"]),
        shlex.join((*compiler, *_FLAGS, *flags)),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(source: Path, flags: Sequence[str], compiler: Sequence[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder, library.name)
        _run([*compiler, *_FLAGS, *flags, str(source), "-o", str(made)])
        made.chmod(0o700)
        made.replace(library)  # another process finds the whole library or none


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # compilers write in the encoding of the locale
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise CompilationError(f"{command[0]}: {error.stderr.strip()[:_LONGEST_REASON]}") from error
    except OSError as error:
        raise CompilationError(f"{command[0]}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise CompilationError(f"{command[0]} took longer than {_TIMEOUT_S:.0f} s") from error
    return done.stdout
