"""Turns text from settings, files and requests into paths on this machine."""

import os
from pathlib import Path


def is_path(text: str) -> bool:
    """Returns whether the text is meant as a path, not as the name of a repository."""
    return text.startswith(("/", "./", "../", "~"))


def expand(path: str | Path) -> Path:
    """Returns the path with `~` and `~user` replaced by home folders.

    Raises:
        ValueError: no path on this machine can have that name. The message does not repeat the name.
    """
    if "\0" in str(path):
        raise ValueError("a path cannot contain a null character")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError("this machine does not know the home folder that the path begins with") from None


def absolute(path: str | Path, folder: Path = Path()) -> Path:
    """Returns the absolute path without links. A relative `path` starts from `folder`.

    Links that form a circle are kept. Raises ValueError as `expand` does.
    """
    return Path(os.path.realpath(folder / expand(path)))
