"""Turns text from settings, files and requests into paths of this machine."""

import os
from pathlib import Path


def is_path(text: str) -> bool:
    """Whether the text is meant as a path, and not as the name of a repository."""
    return text.startswith(("/", "./", "../", "~"))


def expand(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced by home folders.

    Raises:
        ValueError: no path of this machine can have that name. The message does not repeat it.
    """
    if "\0" in str(path):
        raise ValueError("a path cannot contain a null character")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError("this machine does not know the home folder that the path begins with") from None


def absolute(path: str | Path, folder: Path = Path()) -> Path:
    """The absolute path without links, for a path that is meant from `folder`. Links in a circle stay as they
    are. Raises ValueError as `expand` does."""
    return Path(os.path.realpath(folder / expand(path)))
