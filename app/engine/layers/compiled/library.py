"""Loads libraries that are compiled from this project's C files."""

import ctypes
import logging
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from app.engine.layers.compiled.compiler import CompilationError, Compiler, compiled

_log = logging.getLogger(__name__)


def usual_folder() -> Path:
    """Returns the folder in which this user's libraries are kept."""
    return user_cache_path("llm-serving") / "compiled"


def load_library(
    source: Path,
    flags: Sequence[str],
    folder: Path,
    compiler: Compiler,
    temporary: Path | None = None,
) -> ctypes.CDLL:
    """Returns the library that the compiler makes of `source`, or has made before, in `folder`.

    If it cannot be kept there, it is made for this process only, in a folder within `temporary`, by default
    the system's. Raises CompilationError.
    """
    try:
        return _loaded(source, flags, compiler, folder)
    except CompilationError as error:
        library = _loaded_once(source, flags, compiler, temporary, error)
        _log.warning("the library compiled from %s cannot be kept: %s", source.name, error)
        return library


def _loaded_once(
    source: Path, flags: Sequence[str], compiler: Compiler, temporary: Path | None, failure: CompilationError
) -> ctypes.CDLL:
    """Raises CompilationError, which also has the reason why the usual folder could not be used."""
    try:
        with tempfile.TemporaryDirectory(dir=temporary, ignore_cleanup_errors=True) as private:
            return _loaded(source, flags, compiler, Path(private))
    except (CompilationError, OSError) as error:
        reasons = dict.fromkeys((str(failure), str(error)))  # often the same
        raise CompilationError("; ".join(reasons)) from error


def _loaded(source: Path, flags: Sequence[str], compiler: Compiler, folder: Path) -> ctypes.CDLL:
    library = compiled(source, flags, compiler, folder)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:  # a damaged file, or a file system without programs
        with suppress(OSError):
            library.unlink(missing_ok=True)
        raise CompilationError(f"{library}: {error}") from error
