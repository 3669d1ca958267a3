"""Processes that end with their owner, whose end of a pipe closes."""

import subprocess
import sys

import pytest

from tests.waiting import LIMIT_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux reports the end of a pipe by a signal"
)

# The signal may come within a print, which cannot be entered again: `clean_up` writes without one.
BUSY = """
import os
from app.engine.ipc.forking.owner import ends_with
with ends_with(0, lambda: os.write(1, b"cleaned up\\n")):
    print("begun", flush=True)
    while True:
        pass
"""
PAST = """
import os, sys
from app.engine.ipc.forking.owner import ends_with
with ends_with(0, lambda: os.write(1, b"cleaned up\\n")):
    pass
print("begun", flush=True)
sys.stdin.read()
print("went on", flush=True)
"""


@pytest.mark.parametrize(("script", "last_words"), [(BUSY, "cleaned up\n"), (PAST, "went on\n")])
def test_process_ends_when_its_owner_goes_only_in_the_block(script: str, last_words: str) -> None:
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n"
            process.stdin.close()
            assert process.wait(LIMIT_S) == 0
            assert process.stdout.read() == last_words
        finally:
            process.kill()


def test_process_ends_when_its_owner_has_gone_before() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BUSY], input="", capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert ended.stdout in ("cleaned up\n", "begun\ncleaned up\n")
