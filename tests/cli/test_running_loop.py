"""The client inside a running event loop, as in a notebook."""

import subprocess
import sys

import pytest

from app.cli.net.server import PROJECT
from tests.cli.client_process import client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.waiting import LIMIT_S

IN_A_LOOP = """
import asyncio, sys
from app.cli.options import Options
from app.cli.run import main

async def notebook():
    print("loop")
    print("ended with", main(Options(url=sys.argv[1])))
    await asyncio.sleep(0)
    print("line", await asyncio.to_thread(input))

asyncio.run(notebook())
"""


# The system may deliver a signal to any thread. Here it must be another one than the main thread.
BLOCK_CTRL_C_IN_MAIN_THREAD = """
import signal, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
"""


def test_main_works_inside_a_running_loop(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_LOOP, url],
        input="hello\n/quit\na line\n",
        env=client_environ(PYTHONPATH=str(PROJECT)),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "You said: hello" in done.stdout
    assert done.stdout.endswith("ended with 0\nline a line\n")


@pytest.mark.parametrize("preparation", ["", BLOCK_CTRL_C_IN_MAIN_THREAD])
def test_keyboard_is_handled_inside_a_running_loop(url: str, standin: StandIn, preparation: str) -> None:
    command = [sys.executable, "-c", preparation + IN_A_LOOP, url]
    with PseudoTerminal(command, client_environ(PYTHONPATH=str(PROJECT))) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.type("hang up")
        terminal.wait_for("You: hang up")  # below the answer, not inside it
        terminal.type("\x03")
        terminal.wait_for("Stopped. /continue extends the answer.")
        terminal.type("\r")
        terminal.wait_for("You said: hang up")
        terminal.type("\x03")
        terminal.wait_for("Stopped. /continue extends the answer.", times=2)
        terminal.type("/quit\r")
        terminal.wait_for("ended with 0")
        terminal.type("as usual\r")
        terminal.wait_for("line as usual")
        assert terminal.wait_for_end() == 0
    assert standin.left.is_set()
