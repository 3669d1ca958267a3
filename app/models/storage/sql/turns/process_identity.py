"""Names this process in the database, and tells whether a named process of this machine has ended."""

import os
import socket
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types


def this_process() -> str:
    """Returns a name that no other process has: machine, process id and start time."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def has_ended(name: str) -> bool:
    """Returns whether the process that the name begins with has certainly ended; one elsewhere may run."""
    match name.split("/"):
        case [machine, pid, started, *_] if machine == _machine() and pid.isdecimal():
            return _started(int(pid)) != started
    return False


def _machine() -> str:
    """A name of the place in which process ids are unique: a container is a machine of its own."""
    if sys.platform != "linux":
        return socket.gethostname()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}:{boot}:{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str | None:
    """When the process started; None if it has ended, also if its parent has not taken note of that yet."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None
