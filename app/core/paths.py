"""Turns text from settings, files and requests into paths on this machine, and reads their files."""

import errno
import os
import stat
from pathlib import Path

# The errors of a lock on a file system that has none, as some network shares.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MOST_BYTES = 64_000_000  # the index of a model with thousands of files has ten


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


def read_regular(path: Path) -> bytes:
    """Returns the file's content. Raises OSError, also for a file that could block or fill the memory.

    Such are pipes, devices, and files of more than 64 MB.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if found.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {_MOST_BYTES // 10**6} MB")
        return file.read()
