from pathlib import Path

import pytest

from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.waiting import wait_for


@pytest.mark.parametrize("failure", ["ImportError('broken')", "OSError(24, 'Too many open files')"])
def test_failed_preload_is_reported_by_the_next_answer(url: str, tmp_path: Path, failure: str) -> None:
    (tmp_path / "pygments.py").write_text(f"open('tried', 'w').close()\nraise {failure}\n")
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(PYTHONPATH=str(tmp_path))) as terminal:
        terminal.wait_for("Type a message")
        wait_for(Path("tried").exists)
        terminal.type("hello\r")
        terminal.wait_for(f"❌ This is a bug in the client: {failure}.")
        terminal.wait_for("You: hello", times=2)  # offered again
        terminal.type("\x03/help\r")
        terminal.wait_for("switch to another model")
        assert "Traceback" not in terminal.text
