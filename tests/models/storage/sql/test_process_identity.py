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
