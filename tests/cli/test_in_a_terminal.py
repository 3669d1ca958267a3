"""The client in a pseudo-terminal."""

import os
import shlex
import signal
import socket
from pathlib import Path

import pytest

from app.models.schemas import LoadProgress
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.waiting import wait_for


def test_session_in_a_terminal(url: str, standin: StandIn) -> None:
    standin.note = "llama3-1b is not on this machine."
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.wait_for("Type a message")
        assert "Welcome to LLM Chat Interface!\nCurrent model: builtin" in terminal.text
        assert "llama3-1b is not on this machine." in terminal.text
        terminal.type("say # Title\n- *one*\n- two\r")
        terminal.wait_for("12 tokens · 240 tokens/s")
        assert "Assistant:\nTitle\n\n • one\n • two\n12 tokens" in terminal.text
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.type("typed meanwhile")
        terminal.type("\x03")
        terminal.wait_for("Stopped. /continue extends the answer.")
        terminal.wait_for("You: typed meanwhile")
        terminal.type("\x03")  # clears the line
        terminal.type("/save talk\r")
        terminal.wait_for("💾 Conversation saved to talk.json")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert "👋 Goodbye!" in terminal.text
    assert Path("conversations/talk.json").exists()


def test_keys_typed_before_the_prompt_are_sent(url: str, standin: StandIn) -> None:
    paste = "\x1b[200~say three\rfour\x1b[201~"  # while the terminal is still in line mode
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("say one\rsay two\r")
        terminal.wait_for_escape("\x1b[?2004h")
        terminal.type(f"{paste}\r")
        terminal.wait_for("Assistant:", times=3)
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    asked = [body["message"] for _, body in standin.requests]
    assert asked == ["say one", "say two", "say three\nfour"]


def test_enter_sends_after_the_client_was_suspended(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.set_line_mode()
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.wait_for_escape("\x1b[?2004h", times=3)
        terminal.type("say next\r")
        terminal.wait_for("You: say next⏎")
        terminal.type("\x03")
        terminal.wait_for("Assistant:", times=2)


@pytest.mark.parametrize("is_ctrl_z", [False, True])
def test_prompt_goes_on_after_it_was_stopped(url: str, standin: StandIn, is_ctrl_z: bool) -> None:
    with PseudoTerminal(["bash", "--norc", "-i"], client_environ(PS1="$ ")) as terminal:
        terminal.type(f"{shlex.join([*CLIENT, '--url', url])}\r")
        terminal.wait_for("Type a message")
        terminal.type("say half")
        terminal.wait_for("You: say half")
        (client,) = _children(terminal.process.pid)
        terminal.type("\x1a") if is_ctrl_z else os.kill(client, signal.SIGSTOP)
        terminal.wait_for("Stopped")
        terminal.type("echo in the shell\r")
        terminal.wait_for("in the shell", times=2)
        assert terminal.text.count("You: say half") == (0 if is_ctrl_z else 1)
        terminal.type("fg\r")
        terminal.wait_for("You: say half", times=1 if is_ctrl_z else 2)
        terminal.type(" of it\r")
        terminal.wait_for("Assistant:\nhalf of it\n12 tokens")
    assert [body["message"] for _, body in standin.requests] == ["say half of it"]


def test_ctrl_z_without_a_shell_changes_nothing(url: str) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.wait_for("You:")
        terminal.type("say this\x1a too\r")
        terminal.wait_for("You: say this too\nAssistant:\nthis too\n12 tokens")


def test_message_waits_while_its_model_is_downloaded(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.wait_for("Type a message")
        standin.loading = LoadProgress(
            model_name="llama3-1b",
            stage="download",
            fraction=0.5,
            done_bytes=1_270_000_000,
            total_bytes=2_480_000_000,
            bytes_per_s=12.5e6,
            seconds_left=110,
        )
        terminal.type("hello\r")
        terminal.wait_for("llama3-1b: downloading 1.3 GB of 2.5 GB")
        terminal.wait_for("at 12 MB/s (1 min 50 s left)")
        terminal.wait_for("50% 0:00:01")
        standin.loading = None
        terminal.wait_for("You: hello\nAssistant:\nYou said: hello\n12 tokens")


def test_ctrl_c_keeps_what_was_typed_ahead(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.type("say next\rsay lasr\x7ft\r")
        terminal.wait_for("You: say next⏎ say last⏎")
        terminal.type("\x03")
        terminal.wait_for("Stopped. /continue extends the answer.")
        terminal.wait_for("Assistant:", times=3)
        asked = [(kind, body.get("message")) for kind, body in standin.requests]
        assert asked == [("chat", "hang on"), ("stop", None), ("chat", "say next"), ("chat", "say last")]


def test_second_ctrl_c_puts_back_what_waits_to_be_sent(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hang one\r")
        terminal.wait_for("You said: hang one")
        terminal.type("hang two\rsay three\rsay four\r")
        terminal.wait_for("say four⏎")
        terminal.type("\x03")
        terminal.wait_for("You said: hang two")
        terminal.type("\x03")
        terminal.wait_for("it is in the prompt.")
        terminal.wait_for("You: say three\n... say four")
        terminal.type("\r")
        terminal.wait_for("12 tokens")
    asked = [body["message"] for kind, body in standin.requests if kind == "chat"]
    assert asked == ["hang one", "hang two", "say three\nsay four"]


@pytest.mark.parametrize(
    ("arguments", "changes"), [((), {"TERM": "dumb"}), ((), {"ACCESSIBLE": "1"}), (("--plain",), {})]
)
def test_plain_terminal_gets_ascii(url: str, arguments: tuple[str, ...], changes: dict[str, str]) -> None:
    with PseudoTerminal([*CLIENT, "--url", url, *arguments], client_environ(**changes)) as terminal:
        terminal.wait_for("Type a message")
        for line, shown in [("/models", "gpt2"), ("hello", "12 tokens"), ("/switch nothing", "Did you mean")]:
            terminal.type(f"{line}\r")
            terminal.wait_for(shown)
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert terminal.text.isascii()


def test_own_server_starts_and_ends_with_the_terminal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # by a program that does not answer
        environ = client_environ(LLM_PORT=str(taken.getsockname()[1]), COLUMNS="200")
        with PseudoTerminal(CLIENT, environ, columns=200) as terminal:
            terminal.wait_for("No server is running. Starting one at")
            terminal.wait_for("server.log")
            server = wait_for(lambda: _children(terminal.process.pid))[0]
            os.kill(terminal.process.pid, signal.SIGHUP)
            assert terminal.wait_for_end() != 0
            wait_for(lambda: not Path(f"/proc/{server}").exists())


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_wrapped_line_looks_different_from_a_new_one(url: str) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=25) as terminal:
        terminal.wait_for("You:")
        terminal.type("a message that is long\nand goes on")
        terminal.wait_for("You: a message that is lo\nng\n... and goes on")


def test_right_arrow_accepts_the_suggestion(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("say Paris is the capital\r")
        terminal.wait_for("12 tokens")
        terminal.type("say")
        terminal.wait_for("You: say Paris is the capital", times=2)
        terminal.type("\x1b[C\r")
        terminal.wait_for("12 tokens", times=2)
    assert [body["message"] for _, body in standin.requests] == ["say Paris is the capital"] * 2


def test_ctrl_r_searches_the_history(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.wait_for("You:")  # keys before the prompt are on the screen twice
        terminal.type("say Paris is the capital\rsay hello\r")
        terminal.wait_for("12 tokens", times=2)
        terminal.wait_for("You:", times=3)
        terminal.type("\x12capi")
        terminal.wait_for("say Paris is the capital", times=2)
        terminal.type("\r\r")  # accepts the match, and sends it
        terminal.wait_for("12 tokens", times=3)
    assert [body["message"] for _, body in standin.requests][2] == "say Paris is the capital"


def test_editor_changes_the_line_without_sending_it(url: str, standin: StandIn, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "%s, edited" "$(cat "$1")" > "$1"\n')
    editor.chmod(0o700)
    environ = client_environ(EDITOR=str(editor), VISUAL=str(editor))
    with PseudoTerminal([*CLIENT, "--url", url], environ) as terminal:
        terminal.wait_for("You:")
        terminal.type("say text\x18\x05")
        terminal.wait_for("You: say text, edited")
        terminal.type(", twice\r")
        terminal.wait_for("12 tokens")
    assert standin.requests[0][1]["message"] == "say text, edited, twice"


def test_ctrl_c_at_an_empty_prompt_says_how_to_leave(url: str) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("text")
        terminal.wait_for("You: text")
        terminal.type("\x03")
        while "You: text" in terminal.text:
            terminal.wait_for_more()
        assert "Ctrl-D leaves." not in terminal.text
        terminal.type("\x03")
        terminal.wait_for("Ctrl-D leaves.\nYou:")
        terminal.type("hello\r")
        terminal.wait_for("You said: hello")
