import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import TypeVar

import pytest

from app.cli.chat import Chat
from app.cli.client import ChatClient
from app.cli.connection import Connection, Wanted, connected
from app.cli.interrupts import Interrupts
from app.cli.options import Options
from app.cli.places import config_file, sessions_folder
from app.cli.run import main
from app.cli.server import PROJECT, port_for_own
from app.cli.session import Session
from app.cli.transcripts import Transcript, load, save
from app.models.schemas import LoadProgress, TranscriptMessage
from chat_cli import parse_arguments
from tests.cli.conftest import Seen
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.standin import StandIn
from tests.cli.test_server import COMMAND

T = TypeVar("T")

CLIENT = [sys.executable, str(PROJECT / "chat_cli.py")]


def _environ(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "NO_COLOR"))}
    return clean | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "LANG": "C.UTF-8"} | changes


def _piped(text: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIENT, *arguments], input=text, env=_environ(**changes), capture_output=True, text=True, timeout=30
    )


# Without a terminal


def test_standard_input_is_one_message_and_its_answer_the_output(url: str, standin: StandIn) -> None:
    done = _piped("say **one**\n", "--url", url, "-s", "Be brief.")
    assert (done.returncode, done.stdout) == (0, "**one**\n")
    assert "tokens" in done.stderr
    assert standin.requests[0][1]["system_prompt"] == "Be brief."


@pytest.mark.parametrize(
    ("text", "arguments", "code", "told"),
    [
        ("", (), 2, "Standard input is empty"),
        ("refuse", (), 1, "The queue is full."),
        ("hello", ("-m", "gtp2"), 5, "Did you mean gpt2?"),
    ],
)
def test_exit_code_says_what_happened(
    url: str, text: str, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = _piped(text, "--url", url, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("piped", "arguments", "told"),
    [
        (b"secret \xff", (), "Standard input is not UTF-8 text."),
        (b" \n", (), "Standard input is empty."),
        (b"x" * 400_001, (), "The message cannot be sent: String should have at most 400000 characters."),
        (b"hello", ("--url", "http://[::1"), "--url 'http://[::1' is no http address."),
        (b"hello", ("--url", "notaurl"), "--url 'notaurl' is no http address."),
        (b"hello", ("--url", "ftp://x"), "--url 'ftp://x' is no http address."),
        (b"hello", ("--api-key", "a\nb"), "The API key holds a control character."),
    ],
)
def test_what_cannot_be_sent_is_told_before_a_server_is_started(
    piped: bytes, arguments: tuple[str, ...], told: str
) -> None:
    environ = _environ(LLM_PORT=str(port_for_own("127.0.0.1", 0)))
    done = subprocess.run([*CLIENT, *arguments], input=piped, env=environ, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert told in lines[0] and len(lines) <= 2 and "secret" not in lines[0]


def test_prompt_goes_before_what_is_piped_in(url: str, standin: StandIn) -> None:
    Path("notes.txt").write_text("noted")
    assert _piped("a diff\n", "--url", url, "-p", "review @notes.txt").returncode == 0
    assert standin.requests[0][1]["message"].startswith("review @notes.txt\n\na diff\n\n\nnotes.txt:")
    assert not list(sessions_folder().glob("*"))  # what a script asks is not kept
    assert _piped("", "--url", url, "-p", "hello").stdout == "You said: hello\n"


def test_json_is_one_object_of_an_answer_or_an_error(url: str) -> None:
    done = _piped("", "--url", url, "--json", "-p", "think hard")
    told = json.loads(done.stdout)
    assert (told["response"], told["thinking"]) == ("You said: think hard", "hard")
    assert told["usage"]["completion_tokens"] == 12 and (done.returncode, done.stderr) == (0, "")
    failed = _piped("fail", "--url", url, "--json")
    told = json.loads(failed.stdout)
    assert (told["error"]["code"], told["response"]) == ("worker_died", "You said: fail")
    assert failed.returncode == 1 and failed.stderr.startswith("The model's process ended.")
    assert json.loads(_piped("drop", "--url", url, "--json").stdout)["error"]["code"] == "StreamBroken"


@pytest.mark.parametrize(("text", "arguments"), [("", ()), ("hello", ("--url", "notaurl"))])
def test_json_is_one_object_also_of_what_cannot_be_sent(text: str, arguments: tuple[str, ...]) -> None:
    done = _piped(text, "--json", *arguments)
    told = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and told["message"] in done.stderr


def test_json_is_all_that_is_told_also_where_a_model_is_switched_to(url: str) -> None:
    Path("notes.txt").write_text("noted")
    done = _piped("hello @notes.txt", "--url", url, "--json", "-m", "gpt2")
    assert json.loads(done.stdout)["model_name"] == "gpt2" and done.stderr == ""


def test_one_message_goes_on_with_a_conversation_that_is_kept(url: str) -> None:
    kept = [TranscriptMessage(role="user", content="one"), TranscriptMessage(role="assistant", content="1")]
    save(Transcript(messages=kept), "a", sessions_folder())
    assert _piped("two", "--url", url, "--resume").returncode == 0
    assert load("a", sessions_folder()).turns == 2
    assert _piped("two", "--url", url, "--resume", "nothing like it").returncode == 2


def test_interrupted_message_says_so(url: str, standin: StandIn) -> None:
    command = [*CLIENT, "--url", url, "-p", "hang on"]
    process = subprocess.Popen(command, env=_environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read(9) == b"You said:"
    process.send_signal(signal.SIGINT)
    assert (process.stdout.read(), process.wait(20)) == (b" hang on\n", 130)
    process.stdout.close()
    assert standin.left.wait(5)


def test_configuration_that_is_wrong_is_told_before_anything_else() -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text("colour = 1\n")
    done = _piped("hello")
    assert done.returncode == 2 and "colour" in done.stderr


def test_server_that_is_not_there_is_told_with_the_command(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    done = _piped("hello", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 3
    assert f"No server answers at http://127.0.0.1:{port}" in done.stderr
    assert "uvicorn app.main:app" in done.stderr


def test_own_server_that_does_not_know_the_model_says_so() -> None:
    done = _piped("hello", "-m", "no-such-model", LLM_PORT=str(port_for_own("127.0.0.1", 0)))
    assert done.returncode == 5
    assert "LLM_MODEL_NAME" in done.stderr and "Traceback" not in done.stderr


def test_key_is_taken_from_option_environment_and_file(url: str, standin: StandIn) -> None:
    standin.api_key = "secret"
    assert _piped("hello", "--url", url).returncode == 4
    assert _piped("hello", "--url", url, "--api-key", "secret").returncode == 0
    assert _piped("hello", "--url", url, LLM_API_KEY="secret").returncode == 0
    Path(".env").write_text("LLM_API_KEY=secret\n")
    assert _piped("hello", "--url", url).returncode == 0
    refused = _piped("hello", "--url", url, "--api-key", "wrong").stderr
    assert "--api-key KEY" in refused and "LLM_API_KEY" in refused
    standin.api_key = "schlüssel"
    assert _piped("hello", "--url", url, "--api-key", "schlüssel").returncode == 0


def test_found_server_is_used(url: str) -> None:
    assert _piped("hello", LLM_PORT=url.rpartition(":")[2]).stdout == "You said: hello\n"


def test_client_never_imports_torch_and_only_the_wire_of_the_server() -> None:
    modules = "sorted(m for m in sys.modules if m.startswith(('app.', 'torch')))"
    code = f"import sys, app.cli.run, app.cli.chat, app.cli.comparison; print(*{modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    others = [name for name in done.stdout.split() if not name.startswith("app.cli")]
    assert others[0] == "app.models"
    assert all(name.startswith("app.models.schemas") for name in others[1:])


LATER = {"shtab", "torch", "transformers", "fastapi", "click", "pygments", "markdown_it", "tomllib", "dotenv"}
LATER |= {"rich.markdown", "rich.table", "rich.progress", "app.cli.markdown", "app.cli.comparison"}


def test_prompt_waits_for_nothing_that_only_an_answer_needs(url: str) -> None:
    command = f"exec {sys.executable} -X importtime {CLIENT[1]} --url {url} 2> imports"
    with PseudoTerminal(["sh", "-c", command], _environ()) as terminal:
        terminal.wait_for("You:")
        lines = Path("imports").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "prompt_toolkit" in imported and not imported & LATER


# In a running event loop


def test_main_works_inside_a_running_loop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/quit\n"))
    monkeypatch.setattr(sys, "stdout", shown)

    async def notebook() -> int:
        return main(Options(url=url))

    assert asyncio.run(notebook()) == 0
    assert "You said: hello" in shown.getvalue()


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


def test_keys_are_the_clients_also_inside_a_running_loop(url: str, standin: StandIn) -> None:
    command = [sys.executable, "-c", IN_A_LOOP, url]
    with PseudoTerminal(command, _environ(PYTHONPATH=str(PROJECT))) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.type("hang up")
        terminal.wait_for("You: hang up")  # below the answer, and not into it
        terminal.type("\x03")
        terminal.wait_for("Stopped: /continue goes on.")
        terminal.type("\r")
        terminal.wait_for("You said: hang up")
        terminal.type("\x03")
        terminal.wait_for("Stopped: /continue goes on.", times=2)
        terminal.type("/quit\r")
        terminal.wait_for("ended with 0")
        terminal.type("as usual\r")
        terminal.wait_for("line as usual")
        assert terminal.wait_for_end() == 0
    assert standin.left.is_set()


# The loop of questions and answers


class ScriptedPrompt:
    """Types lines, and keeps the drafts it was offered."""

    def __init__(self, lines: list[str], before_last: Callable[[], None] | None = None) -> None:
        self._lines = list(lines)
        self._before_last = before_last
        self.drafts: list[str] = []

    async def ask(self, draft: str) -> str:
        self.drafts.append(draft)
        if not self._lines:
            raise EOFError
        if len(self._lines) == 1 and self._before_last is not None:
            self._before_last()
        return self._lines.pop(0)


def _chatted(
    url: str, seen: Seen, lines: list[str], before: Callable[[Session], None] | None = None
) -> list[str]:
    async def run() -> list[str]:
        async with ChatClient(url) as client:
            session = Session(client, seen.terminal())
            if before is not None:
                before(session)
            prompt = ScriptedPrompt(lines)
            connection = Connection(client, Wanted({}, url=url))
            await Chat(session, connection, prompt, Interrupts()).run()
            return prompt.drafts

    return asyncio.run(run())


def test_no_error_ends_the_loop(url: str, seen: Seen) -> None:
    lines = ["refuse", "/undo", "/swich gpt2", "/load nothing", "fail", "drop", "/set heat 1", "  ", "hello"]
    drafts = _chatted(url, seen, lines)
    assert seen.answers.endswith("You said: hello\n")
    assert drafts == ["", "refuse", "", "/swich gpt2", "", "fail", "", "", "", ""]


def test_message_that_the_wire_does_not_take_is_told(url: str, seen: Seen) -> None:
    _chatted(url, seen, ["x" * 400_001])
    assert "The message cannot be sent" in seen.told


def _break(session: Session) -> None:
    session.settings = None  # type: ignore[assignment]  # whatever fails inside


def test_fault_of_the_client_is_logged_and_told_in_a_line(url: str, seen: Seen) -> None:
    _chatted(url, seen, ["hello", "/help"], _break)
    assert "This is a fault of the client" in seen.told and "/models" in seen.told
    log = Path(os.environ["XDG_STATE_HOME"]) / "llm-serving" / "client.log"
    assert "Traceback" in log.read_text() and "Traceback" not in seen.told


def test_fault_that_cannot_be_logged_is_told_all_the_same(url: str, seen: Seen) -> None:
    (Path(os.environ["XDG_STATE_HOME"]) / "llm-serving" / "client.log").mkdir(parents=True)
    _chatted(url, seen, ["hello", "/help"], _break)
    assert "This is a fault of the client" in seen.told and "/models" in seen.told
    assert "It cannot be told in full: Is a directory." in seen.told


def _chatted_with_own(seen: Seen, lines: list[str], forgotten: str = "") -> tuple[list[str], Session]:
    """Types the lines. The client's own server, a stand-in, ends before the last of them; its successor does
    not know the model that is `forgotten`."""

    async def run() -> tuple[list[str], Session]:
        environ = os.environ | {"LLM_PORT": str(port_for_own("127.0.0.1", 0))}
        wanted = Wanted(environ, command=COMMAND)
        async with connected(wanted, seen.terminal(), Interrupts()) as connection:

            def end() -> None:
                environ["FORGOTTEN"] = forgotten
                connection.close()

            session = Session(connection.client, seen.terminal())
            prompt = ScriptedPrompt(lines, before_last=end)
            await Chat(session, connection, prompt, Interrupts()).run()
            return prompt.drafts, session

    return asyncio.run(run())


@pytest.mark.parametrize("line", ["hello again", "/models", "/switch builtin", "//usr"])
def test_line_that_met_no_server_is_offered_again(seen: Seen, line: str) -> None:
    drafts, _ = _chatted_with_own(seen, ["hello", line])
    assert drafts == ["", "", line]
    assert "Enter sends your line again." in seen.told


def test_chosen_model_is_switched_to_again_in_a_new_server(seen: Seen) -> None:
    _, session = _chatted_with_own(seen, ["/switch gpt2", "hello"])
    assert session.current_model == "gpt2"
    assert seen.told.endswith(
        "Current model: gpt2 (served from openai-community/gpt2)\nEnter sends your line again.\n\n"
    )


def test_chosen_model_that_a_new_server_refuses_is_said(seen: Seen) -> None:
    _, session = _chatted_with_own(seen, ["/switch gpt2", "hello"], forgotten="gpt2")
    assert session.current_model == "builtin"
    assert "builtin answers in place of gpt2." in seen.told


def test_leaving_ends_the_loop(url: str, seen: Seen) -> None:
    assert _chatted(url, seen, ["/quit", "never"]) == [""]


def test_options_are_as_documented() -> None:
    given = ["--url", "u", "--api-key", "k", "-m", "m", "-s", "be", "--plain", "--no-color"]
    given += ["-p", "hi", "--json", "--resume"]
    assert parse_arguments(given) == Options("u", "k", "m", "be", "", "hi", True, True, True)
    assert parse_arguments(["--resume", "talk"]).resume == "talk"
    assert parse_arguments([]) == Options()


def _completed(*words: str) -> list[str]:
    """What bash offers for the last of the words behind the client's name."""
    script = subprocess.run(
        [*CLIENT, "--print-completion", "bash"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    ask = 'COMP_WORDS=(chat_cli.py "$@") COMP_CWORD=$#; _shtab_chat_cli_py; echo "${COMPREPLY[@]}"'
    command = ["bash", "-c", f"{script}\n{ask}", "bash", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()


def test_bash_completes_the_options() -> None:
    assert _completed("--p") == ["--prompt", "--plain", "--print-completion"]
    assert _completed("--json", "--ur") == ["--url"]
    assert _completed("--print-completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_accepts_the_completion_and_finds_every_option(shell: str) -> None:
    done = subprocess.run([*CLIENT, "--print-completion", shell], capture_output=True, text=True, timeout=30)
    options = {word.strip("[],") for word in _piped("", "--help").stdout.split() if "-" in word[:2]}
    assert (done.returncode, done.stderr) == (0, "")
    assert options > {"--url", "-m"} and all(option in done.stdout for option in options)
    if which(shell):
        assert subprocess.run([shell, "-n"], input=done.stdout, text=True, timeout=30).returncode == 0


# In a terminal


def test_session_in_a_terminal(url: str, standin: StandIn) -> None:
    standin.note = "llama3-1b is not on this machine."
    with PseudoTerminal([*CLIENT, "--url", url], _environ()) as terminal:
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
        terminal.wait_for("Stopped: /continue goes on.")
        terminal.wait_for("You: typed meanwhile")
        terminal.type("\x03")  # clears the line
        terminal.type("/save talk\r")
        terminal.wait_for("💾 Conversation saved to talk.json")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert "👋 Goodbye!" in terminal.text
    assert Path("conversations/talk.json").exists()


def test_what_is_typed_before_the_prompt_is_up_is_sent(url: str, standin: StandIn) -> None:
    paste = "\x1b[200~say three\rfour\x1b[201~"  # from the terminal's own line mode on
    with PseudoTerminal([*CLIENT, "--url", url], _environ()) as terminal:
        terminal.type("say one\rsay two\r")
        terminal.wait_for_escape("\x1b[?2004h")
        terminal.type(f"{paste}\r")
        terminal.wait_for("Assistant:", times=3)
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    asked = [body["message"] for _, body in standin.requests]
    assert asked == ["say one", "say two", "say three\nfour"]


def test_enter_sends_also_after_the_client_was_stopped_and_continued(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], _environ()) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.take_as_a_shell_does()
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.wait_for_escape("\x1b[?2004h", times=3)
        terminal.type("say next\r")
        terminal.wait_for("You: say next⏎")
        terminal.type("\x03")
        terminal.wait_for("Assistant:", times=2)


def test_message_waits_while_its_model_is_fetched(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], _environ()) as terminal:
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
        terminal.wait_for("llama3-1b: download 1.3 GB of 2.5 GB at 12 MB/s")
        terminal.wait_for("\n(1 min 50 s left)")
        terminal.wait_for("50% 0:00:01")
        standin.loading = None
        terminal.wait_for("You: hello\nAssistant:\nYou said: hello\n12 tokens")


def test_ctrl_c_keeps_what_was_typed_ahead(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], _environ()) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        terminal.type("say next\rsay lasr\x7ft\r")
        terminal.wait_for("You: say next⏎ say last⏎")
        terminal.type("\x03")
        terminal.wait_for("Stopped: /continue goes on.")
        terminal.wait_for("Assistant:", times=3)
        assert [body["message"] for _, body in standin.requests] == ["hang on", "say next", "say last"]


@pytest.mark.parametrize(
    ("arguments", "changes"), [((), {"TERM": "dumb"}), ((), {"ACCESSIBLE": "1"}), (("--plain",), {})]
)
def test_plain_terminal_gets_ascii(url: str, arguments: tuple[str, ...], changes: dict[str, str]) -> None:
    with PseudoTerminal([*CLIENT, "--url", url, *arguments], _environ(**changes)) as terminal:
        terminal.wait_for("Type a message")
        for line, shown in [("/models", "gpt2"), ("hello", "12 tokens"), ("/switch nothing", "Did you mean")]:
            terminal.type(f"{line}\r")
            terminal.wait_for(shown)
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert terminal.text.isascii()


def test_own_server_starts_and_ends_with_the_terminal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # by something that does not answer
        environ = _environ(LLM_PORT=str(taken.getsockname()[1]), COLUMNS="200")
        with PseudoTerminal(CLIENT, environ, columns=200) as terminal:
            terminal.wait_for("No server runs yet: starting one at")
            terminal.wait_for("server.log")
            server = _wait(lambda: _children(terminal.process.pid))[0]
            os.kill(terminal.process.pid, signal.SIGHUP)
            assert terminal.wait_for_end() != 0
            _wait(lambda: not Path(f"/proc/{server}").exists())


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait(condition: Callable[[], T]) -> T:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        os.sched_yield()
    return found
