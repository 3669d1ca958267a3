"""Which processes have ended."""

import subprocess
import sys

import psutil  # type: ignore[import-untyped]  # ships no types

from app.models.storage.sql.turns.process_identity import has_ended, this_process
from tests.waiting import LIMIT_S, wait_for


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
