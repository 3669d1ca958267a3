"""Names this process in the database, and finds out whether a named process of this machine has ended."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types


def this_process() -> str:
    """Returns a name that no other process has: machine, process id and start time."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def has_ended(name: str) -> bool:
    """Returns whether the process that the name begins with has certainly ended; one elsewhere may run."""
    return _is_alive(name) is False


def is_running(name: str) -> bool:
    """Returns whether the process that the name begins with runs here, as far as this user can see."""
    return _is_alive(name) is True


def _is_alive(name: str) -> bool | None:
    """None if the process belongs to another machine."""
    match name.split("/"):
        case [machine, pid, started, *_] if machine == _machine() and pid.isdecimal():
            try:
                return _started(int(pid)) == started
            except PermissionError:  # there is a process of this id; nothing says that it is another one
                return True
    return None


def _machine() -> str:
    """A name of the place in which process ids are unique: a container is a machine of its own."""
    if sys.platform != "linux":
        return socket.gethostname()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}:{boot}:{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str | None:
    """When the process started; None if it has ended, also if its parent has not taken note of that yet.

    On Linux this is counted from the boot: the time of day would change when the clock is set.

    Raises PermissionError if the process exists, but the system hides it from this user.
    """
    if sys.platform == "linux":
        return _started_on_linux(pid)
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError from error


def _started_on_linux(pid: int) -> str | None:
    """Reads the fields 3 (state) and 22 (start time) of /proc/PID/stat, see proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        _check_ended(pid)
        return None
    after_name = stat.rpartition(")")[2].split()
    state, started = after_name[0], after_name[19]
    return None if state in "ZX" else started


def _check_ended(pid: int) -> None:
    """Raises PermissionError if /proc only hides the process, as from services with ProtectProc=invisible."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
