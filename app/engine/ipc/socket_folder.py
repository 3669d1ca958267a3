"""Makes folders for Unix sockets, whose paths are limited to about a hundred bytes."""

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

_LONGEST_PATH = 103  # bytes; 107 on Linux
_LONGEST_REST = len("/llm-12345678/fork-server")


def make_socket_folder(parents: Sequence[str] | None = None) -> Path:
    """Returns a new folder that only this user may enter, in the first of the parents that is short enough.

    By default they are the folder for temporary files, the user's own run-time folder, and /tmp.

    Raises:
        OSError: none of them can be used.
    """
    if parents is None:
        parents = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")
    for parent in parents:
        if (
            parent
            and len(os.fsencode(parent)) + _LONGEST_REST <= _LONGEST_PATH
            and os.access(parent, os.W_OK)
        ):
            return Path(tempfile.mkdtemp(prefix="llm-", dir=parent))
    raise OSError(errno.ENAMETOOLONG, "TMPDIR is too long a path for a socket; set it to a shorter one")
