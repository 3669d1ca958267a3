"""A path that notices its use on an event loop, where a disk that does not answer would stop everything."""

import asyncio
import os
from pathlib import Path, PosixPath
from typing import Any

used_on_loop: list[str] = []  # the operations, which a test reads and clears


def _note(operation: str, path: Path) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # another thread
        return
    used_on_loop.append(f"{operation} {path.name}")


class WatchedPath(PosixPath):
    """Behaves as a path, and lists its operations on the disk that an event loop had to wait for."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        _note("stat", self)
        return super().stat(follow_symlinks=follow_symlinks)

    def open(self, *args: Any, **kwargs: Any) -> Any:  # Any: as Path's own overloads
        _note("open", self)
        return super().open(*args, **kwargs)

    def iterdir(self) -> Any:  # Any: as Path's own generator
        _note("iterdir", self)
        return super().iterdir()

    def unlink(self, missing_ok: bool = False) -> None:
        _note("unlink", self)
        super().unlink(missing_ok)

    def mkdir(self, *args: Any, **kwargs: Any) -> None:
        _note("mkdir", self)
        super().mkdir(*args, **kwargs)

    def resolve(self, strict: bool = False) -> Any:  # Any: this class
        _note("resolve", self)
        return super().resolve(strict)
