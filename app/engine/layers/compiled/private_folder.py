"""Makes and checks folders of programs that no other user of the machine could have changed."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

try:
    import grp
    import pwd
except ImportError:  # Windows, where no product is compiled
    grp = pwd = None  # type: ignore[assignment]


class NotPrivate(Exception):
    """Another user may change the folder's contents. The message names the path that allows it."""


def private_folder(folder: Path) -> Path:
    """Returns the folder's path without links. Creates it if need be, for this user only.

    Raises:
        NotPrivate: others own it, may write to it, or may put another folder in its place.
        OSError: it cannot be created.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Links are followed once, before the checks, because they may lead elsewhere a moment later.
    folder = folder.parent.resolve(strict=True) / folder.name
    if not is_private(folder, stat.S_ISDIR):
        raise NotPrivate(f"others may write to {folder}")
    _check_parents(folder)
    return folder


def is_private(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Returns whether the path is of this kind, no link, and this user's, and nobody else may write to it."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    others_may_write = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not others_may_write


def _check_parents(folder: Path) -> None:
    """Raises NotPrivate if another user may replace a folder on the way to this one."""
    for parent in reversed(folder.parents):
        status = parent.stat()
        if _others_may_replace_entries(status):
            raise NotPrivate(f"others may write to {parent}")
        if _others_cannot_enter(status):
            return


def _others_may_replace_entries(status: os.stat_result) -> bool:
    """Returns whether another user than root may rename or remove this user's entries of the folder."""
    if status.st_uid not in (0, os.geteuid()):
        return True
    if status.st_mode & stat.S_ISVTX:
        return False
    by_group = bool(status.st_mode & stat.S_IWGRP) and not _is_users_own_group(status.st_gid)
    return by_group or bool(status.st_mode & stat.S_IWOTH)


def _is_users_own_group(group_id: int) -> bool:
    """Returns whether the group is the one that many systems make for each user, with the user's name."""
    try:
        return group_id == 0 or grp.getgrgid(group_id).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


def _others_cannot_enter(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IXGRP | stat.S_IXOTH)
