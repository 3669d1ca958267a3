"""Which processes have ended."""

import os
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from app.models.storage.sql.turns.process_identity import has_ended, this_process
from tests.waiting import LIMIT_S, wait_for


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the system keeps only the time of the start")
def test_the_name_of_a_process_does_not_depend_on_the_clock() -> None:
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks_since_boot = after_name[19]
    assert this_process().endswith(f"/{os.getpid()}/{ticks_since_boot}")


def test_a_process_has_ended_before_its_parent_takes_note() -> None:
    assert not has_ended(this_process())
    command = "from app.models.storage.sql.turns.process_identity import this_process; print(this_process())"
    with subprocess.Popen(
        [sys.executable, "-c", f"{command}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        name = child.stdout.readline().strip()
        assert not has_ended(f"{name}/token/holder")
        child.kill()
        wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "the child to end")
        assert has_ended(f"{name}/token/holder")
        child.wait(LIMIT_S)
        assert has_ended(f"{name}/token/holder")


# Root, in no group of its own, without the rights to see and to signal the processes of others.
WITHOUT_RIGHTS = 'setpriv --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all "$@"'
LOOK = (
    "import sys\n"
    "from app.models.storage.sql.turns.process_identity import has_ended, is_running\n"
    "print([(has_ended(name), is_running(name)) for name in sys.argv[1:]])\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hides processes in this way")
@pytest.mark.parametrize("hiding", [1, 2])
def test_a_hidden_process_of_another_user_has_not_ended(hiding: int) -> None:
    """As for a service of systemd with a user of its own and ProtectProc=invisible."""
    mount = f"mount -t proc -o hidepid={hiding} proc /proc && exec {WITHOUT_RIGHTS}"
    unshared = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can hide processes")
    machine = this_process().split("/")[0]
    with subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "sleep", "600"]) as other:
        try:
            names = [f"{machine}/{pid}/1/token/holder" for pid in (other.pid, 999_999_999)]
            seen = subprocess.run(
                [*unshared, sys.executable, "-c", LOOK, *names], capture_output=True, text=True, check=True
            )
        finally:
            other.kill()
    assert seen.stdout == "[(False, True), (True, False)]\n"
