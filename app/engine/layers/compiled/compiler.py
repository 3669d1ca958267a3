"""Compiles C files of this project when they are first used, and keeps the libraries in a private folder."""

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

from app.engine.layers.compiled.private_folder import NotPrivate, is_private, private_folder

_LIMIT_S = 60.0  # for all libraries of a process; each takes one to five seconds
_FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fopenmp", "-ffp-contract=off")
_LONGEST_REASON = 300  # characters of the compiler's messages
_BUILD_PREFIX = "compiling-"
_STALE_AFTER_S = 3600.0  # for a build folder, whose process was killed


class CompilationError(Exception):
    """The library could not be made. The text says why."""


class Compiler:
    """A C compiler, all of whose runs together may take `limit_s`. One that has hung is not run again."""

    def __init__(self, command: Sequence[str], limit_s: float = _LIMIT_S) -> None:
        self.command = tuple(command)
        self._left_s = limit_s

    @cached_property
    def version(self) -> str:
        """The compiler's own description of its version. Raises what `run` raises."""
        return self.run("--version")

    def run(self, *arguments: str, temporary: Path | None = None) -> str:
        """Returns the output of the compiler, which keeps its temporary files in the folder, if one is given.

        Raises CompilationError if it fails or takes too long. It leaves no process behind.
        """
        name = self.command[0]
        if self._left_s <= 0:
            raise CompilationError(f"no time is left for {name}")
        began_at = time.monotonic()
        try:
            return self._run(arguments, {} if temporary is None else {"TMPDIR": str(temporary)})
        except OSError as error:
            raise CompilationError(f"{name}: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise CompilationError(f"{name} took too long and was ended") from error
        finally:
            self._left_s -= time.monotonic() - began_at

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
        with subprocess.Popen(
            (*self.command, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # compilers write in the encoding of the locale
            env={**os.environ, **environment},
            process_group=0,
        ) as process:
            try:
                output, reason = process.communicate(timeout=self._left_s)
            finally:
                if process.returncode is None:
                    _kill_group(process.pid)
        if process.returncode:
            raise CompilationError(f"{self.command[0]}: {reason.strip()[:_LONGEST_REASON]}")
        return output


def _kill_group(leader: int) -> None:
    """Ends the compiler and the programs that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


@cache
def usual_compiler() -> Compiler:
    """Returns this process's compiler. Raises CompilationError if there is none."""
    return find_compiler(os.environ)


def find_compiler(environment: Mapping[str, str], limit_s: float = _LIMIT_S) -> Compiler:
    """Returns the C compiler that `CC` names, else gcc or cc. `limit_s` bounds all its runs together.

    Raises CompilationError if there is none.
    """
    for command in _commands(environment):
        if command and shutil.which(command[0], path=environment.get("PATH")):
            return Compiler(command, limit_s)
    named = f" (CC={environment['CC']})" if "CC" in environment else ""
    raise CompilationError(f"there is no C compiler{named}")


def _commands(environment: Mapping[str, str]) -> list[list[str]]:
    if "CC" not in environment:
        return [["gcc"], ["cc"]]
    try:
        return [shlex.split(environment["CC"])]
    except ValueError as error:  # a quotation that does not end
        raise CompilationError(f"CC={environment['CC']}: {error}") from error


def compiled(source: Path, flags: Sequence[str], compiler: Compiler, folder: Path) -> Path:
    """Returns the library that the compiler makes of `source`, or has made before, in `folder`.

    The folder is created if need be. Several processes may compile into it at the same time.

    Raises CompilationError if the compiler fails, or if others may write into the folder.
    """
    try:
        folder = private_folder(folder)
        _remove_stale_builds(folder)
        library = folder / f"{source.stem}-{_digest(source, flags, compiler)}.so"
        if not is_private(library, stat.S_ISREG):
            _compile(source, flags, compiler, library)
        return library
    except NotPrivate as error:
        raise CompilationError(str(error)) from error
    except OSError as error:
        raise CompilationError(f"{folder}: {error.strerror or error}") from error


def _remove_stale_builds(folder: Path) -> None:
    """Removes what processes have left that were killed while they compiled."""
    oldest = time.time() - _STALE_AFTER_S
    for build in folder.glob(f"{_BUILD_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if build.lstat().st_mtime < oldest:
                shutil.rmtree(build, ignore_errors=True)


def _digest(source: Path, flags: Sequence[str], compiler: Compiler) -> str:
    """Returns a name for all that the library depends on."""
    parts = (
        source.read_text("utf-8"),
        compiler.version,
        shlex.join((*compiler.command, *_FLAGS, *flags)),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(source: Path, flags: Sequence[str], compiler: Compiler, library: Path) -> None:
    with tempfile.TemporaryDirectory(
        prefix=_BUILD_PREFIX, dir=library.parent, ignore_cleanup_errors=True
    ) as name:
        build = Path(name)
        made = build / library.name
        compiler.run(*_FLAGS, *flags, str(source), "-o", str(made), temporary=build)
        made.chmod(0o700)
        made.replace(library)  # another process finds the whole library or none
