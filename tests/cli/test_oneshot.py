"""The client without a terminal: one message and its answer."""

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from app.cli.net.server import choose_port
from app.cli.paths import config_file, sessions_folder
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript, load, save
from app.models.schemas import TranscriptMessage
from tests.cli.client_process import CLIENT, client_environ, piped
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.waiting import LIMIT_S


def test_standard_input_is_the_message_and_output_the_answer(url: str, standin: StandIn) -> None:
    done = piped("say **one**\n", "--url", url, "-s", "Be brief.")
    assert (done.returncode, done.stdout) == (0, "**one**\n")
    assert "tokens" in done.stderr
    assert standin.requests[0][1]["system_prompt"] == "Be brief."


@pytest.mark.parametrize(
    ("text", "arguments", "code", "expected"),
    [
        ("", (), 2, "Standard input is empty"),
        ("refuse", (), 1, "The queue is full."),
        ("hello", ("-m", "gtp2"), 5, "Did you mean gpt2?"),
    ],
)
def test_exit_code_depends_on_the_error(
    url: str, text: str, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    done = piped(text, "--url", url, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert expected in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("piped", "arguments", "expected"),
    [
        (b"secret \xff", (), "Standard input is not UTF-8 text."),
        (b" \n", (), "Standard input is empty."),
        (b"", ("-p", ""), "The message is empty."),
        (b"x" * 400_001, (), "The message cannot be sent: String should have at most 400000 characters."),
        (b"hello", ("--url", "http://[::1"), "--url 'http://[::1' is not an HTTP address."),
        (b"hello", ("--url", "notaurl"), "--url 'notaurl' is not an HTTP address."),
        (b"hello", ("--url", "ftp://x"), "--url 'ftp://x' is not an HTTP address."),
        (b"hello", ("--api-key", "a\nb"), "The API key contains a control character."),
    ],
)
def test_invalid_input_is_reported_before_a_server_starts(
    piped: bytes, arguments: tuple[str, ...], expected: str
) -> None:
    environ = client_environ(LLM_PORT=str(choose_port("127.0.0.1", 0)))
    done = subprocess.run(
        [*CLIENT, *arguments], input=piped, env=environ, capture_output=True, timeout=LIMIT_S
    )
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert expected in lines[0] and len(lines) <= 2 and "secret" not in lines[0]


@pytest.mark.parametrize(("variable", "value"), [("CHAT_URL", "notaurl"), ("LLM_HOST", "a b")])
def test_invalid_address_names_its_variable(variable: str, value: str) -> None:
    done = piped("hello", **{variable: value})
    assert done.returncode == 2 and done.stderr.startswith(f"{variable} '") and value in done.stderr


@pytest.mark.parametrize("origin", ["CHAT_URL", "config.toml"])
def test_address_without_a_server_says_where_it_is_from(origin: str) -> None:
    url = f"http://127.0.0.1:{choose_port('127.0.0.1', 0)}"
    config = config_file()
    assert config is not None
    config.parent.mkdir(parents=True)
    config.write_text(f'url = "{url}"\n' if origin == "config.toml" else "")
    done = piped("hello", **({"CHAT_URL": url} if origin == "CHAT_URL" else {}))
    assert f"The address is from {config if origin == 'config.toml' else origin}." in done.stderr


def test_prompt_option_precedes_piped_input(url: str, standin: StandIn) -> None:
    Path("notes.txt").write_text("noted")
    assert piped("a diff\n", "--url", url, "-p", "review @notes.txt").returncode == 0
    assert standin.requests[0][1]["message"].startswith("review @notes.txt\n\na diff\n\n\nnotes.txt:")
    assert not list(sessions_folder().glob("*"))  # messages of scripts are not saved
    assert piped("", "--url", url, "-p", "hello").stdout == "You said: hello\n"


@pytest.mark.parametrize(
    "mention",
    [
        "@~bob",
        "@~",
        "@~no/body",
        f"@{'x' * 5000}",
        f"@{'x/' * 3000}",
        "@.",
        "@/dev/zero",
        "@/proc/1/mem",
        "@\x7f",
    ],
)
def test_mention_of_no_readable_file_stays_text(url: str, standin: StandIn, mention: str) -> None:
    done = piped(f"thanks {mention}", "--url", url)
    assert (done.returncode, standin.requests[0][1]["message"]) == (0, f"thanks {mention}")


def test_mention_of_a_file_that_cannot_be_attached_is_reported(url: str, standin: StandIn) -> None:
    Path("photo.png").write_bytes(b"\x89PNG\0")
    done = piped("see @photo.png", "--url", url)
    assert standin.requests[0][1]["message"] == "see @photo.png"
    assert "photo.png is not attached: photo.png is not a text file." in done.stderr


def test_mention_of_a_file_that_does_not_exist_is_reported(url: str, standin: StandIn) -> None:
    done = piped("see @missing.txt", "--url", url)
    assert standin.requests[0][1]["message"] == "see @missing.txt"
    assert "missing.txt is not attached: there is no such file." in done.stderr


def test_tokens_of_all_files_are_counted_at_once(url: str, standin: StandIn) -> None:
    standin.counts_together = 3
    for name in ("a.txt", "b.txt", "c.txt"):
        Path(name).write_text("text")
    done = piped("see @a.txt, @b.txt and @c.txt", "--url", url)
    noted = [line for line in done.stderr.splitlines() if line.startswith("Attached")]
    assert noted == [f"Attached {name}.txt: 22 bytes, 4 tokens." for name in "abc"]


AS_UNKNOWN_USER = ("unshare", "--user", "--map-user=54321")


def _can_be_unknown_user() -> bool:
    try:
        return subprocess.run([*AS_UNKNOWN_USER, "true"], stderr=subprocess.DEVNULL).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _can_be_unknown_user(), reason="needs user namespaces")
def test_unknown_user_without_a_home_is_answered(url: str) -> None:
    environ = client_environ()
    for name in ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        environ.pop(name, None)
    with PseudoTerminal([*AS_UNKNOWN_USER, *CLIENT, "--url", url], environ) as terminal:
        terminal.type("hello\r/status\r/set top_k 5 --save\r/quit\r")
        assert terminal.wait_for_end() == 0
        assert "You said: hello" in terminal.text and "saved in" in terminal.text
        assert "Set HOME or XDG_CONFIG_HOME." in terminal.text


def test_character_that_the_output_cannot_encode_is_replaced(url: str) -> None:
    done = piped("say caf\u00e9 \u2713 \U0001f600", "--url", url, PYTHONIOENCODING="ascii:surrogateescape")
    assert (done.returncode, done.stdout) == (0, "caf? ? ?\n")
    done = piped("", "--url", url, "--json", "-p", "say \u2713 \U0001f600", PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["response"] == "\u2713 \U0001f600"


def test_json_has_no_control_characters(url: str) -> None:
    done = piped("", "--url", url, "--json", "-p", "say a\x9b2J\x1b[2J\x7fb")
    assert json.loads(done.stdout)["response"] == "a\x9b2J\x1b[2J\x7fb"
    assert done.stdout.rstrip("\n").isprintable()


def test_json_is_one_object_for_an_answer_or_an_error(url: str) -> None:
    done = piped("", "--url", url, "--json", "-p", "think hard")
    printed = json.loads(done.stdout)
    assert (printed["response"], printed["thinking"]) == ("You said: think hard", "hard")
    assert printed["usage"]["completion_tokens"] == 12 and (done.returncode, done.stderr) == (0, "")
    failed = piped("fail", "--url", url, "--json")
    printed = json.loads(failed.stdout)
    assert (printed["error"]["code"], printed["response"]) == ("worker_died", "You said: fail")
    assert failed.returncode == 1 and failed.stderr.startswith("The model's process ended.")
    assert json.loads(piped("drop", "--url", url, "--json").stdout)["error"]["code"] == "StreamBroken"


@pytest.mark.parametrize(("text", "arguments"), [("", ()), ("hello", ("--url", "notaurl"))])
def test_json_is_one_object_for_invalid_input(text: str, arguments: tuple[str, ...]) -> None:
    done = piped(text, "--json", *arguments)
    printed = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and printed["message"] in done.stderr


def test_json_is_the_only_output_when_switching_models(url: str) -> None:
    Path("notes.txt").write_text("noted")
    done = piped("hello @notes.txt", "--url", url, "--json", "-m", "gpt2")
    assert json.loads(done.stdout)["model_name"] == "gpt2" and done.stderr == ""


def test_one_message_can_resume_a_conversation(url: str) -> None:
    kept = [TranscriptMessage(role="user", content="one"), TranscriptMessage(role="assistant", content="1")]
    save(Transcript(tree=ConversationTree.linear(kept)), "a", sessions_folder())
    assert piped("two", "--url", url, "--resume").returncode == 0
    assert load("a", sessions_folder()).turns == 2
    assert piped("two", "--url", url, "--resume", "nothing like it").returncode == 2


def test_interrupted_message_prints_its_beginning(url: str, standin: StandIn) -> None:
    command = [*CLIENT, "--url", url, "-p", "hang on"]
    process = subprocess.Popen(
        command, env=client_environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.read(9) == b"You said:"
    process.send_signal(signal.SIGINT)
    assert (process.stdout.read(), process.wait(LIMIT_S)) == (b" hang on\n", 130)
    process.stdout.close()
    assert standin.left.wait(LIMIT_S)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_output_that_cannot_be_written_is_reported_in_one_line(url: str, arguments: tuple[str, ...]) -> None:
    command = [*CLIENT, "--url", url, "-p", "hello", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            env=client_environ(),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
        )
    assert done.returncode == 1
    assert done.stderr.endswith("The output cannot be written: No space left on device.\n")
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_invalid_configuration_is_reported_first() -> None:
    config = config_file()
    assert config is not None
    config.parent.mkdir(parents=True)
    config.write_text("colour = 1\n")
    done = piped("hello")
    assert done.returncode == 2 and "colour" in done.stderr


def test_missing_server_is_reported_with_the_start_command(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    done = piped("hello", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 3
    assert (
        f"No server answers at http://127.0.0.1:{port} (connection refused). The address is from --url."
        in done.stderr
    )
    assert f"uvicorn app.main:app --host 127.0.0.1 --port {port}" in done.stderr


def test_own_server_reports_an_unknown_model() -> None:
    done = piped("hello", "-m", "no-such-model", LLM_PORT=str(choose_port("127.0.0.1", 0)))
    assert done.returncode == 5
    assert "LLM_MODEL_NAME" in done.stderr and "Traceback" not in done.stderr


def test_api_key_comes_from_option_environment_or_file(url: str, standin: StandIn) -> None:
    standin.api_key = "secret"
    assert piped("hello", "--url", url).returncode == 4
    assert piped("hello", "--url", url, "--api-key", "secret").returncode == 0
    assert piped("hello", "--url", url, LLM_API_KEY="secret").returncode == 0
    Path(".env").write_text("LLM_API_KEY=secret\n")
    assert piped("hello", "--url", url).returncode == 0
    refused = piped("hello", "--url", url, "--api-key", "wrong").stderr
    assert "--api-key KEY" in refused and "LLM_API_KEY" in refused
    standin.api_key = "schlüssel"
    assert piped("hello", "--url", url, "--api-key", "schlüssel").returncode == 0


def test_running_server_is_used(url: str) -> None:
    assert piped("hello", LLM_PORT=url.rpartition(":")[2]).stdout == "You said: hello\n"
