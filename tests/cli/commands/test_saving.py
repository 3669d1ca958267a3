"""Saving and exporting over files that exist."""

from pathlib import Path

import pytest

from app.cli.errors import ClientError
from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import recent_sessions
from app.cli.transcripts.transcript_file import load
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.conftest import Seen, Talk
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn


@pytest.mark.parametrize(
    ("line", "path"), [("/save talk", "conversations/talk.json"), ("/export notes.md", "notes.md")]
)
def test_existing_file_is_not_replaced_without_a_terminal(talk: Talk, line: str, path: str) -> None:
    talk("one", line)
    before = Path(path).read_bytes()
    with pytest.raises(ClientError, match=f"{path} exists and was not replaced."):
        talk("two", line)
    assert Path(path).read_bytes() == before


def test_own_file_is_saved_again_without_a_question(talk: Talk, seen: Seen) -> None:
    talk("one", "/save talk", "two", "/save talk", "/save")
    assert load("talk").turns == 2 and "kept as" not in seen.messages


@pytest.mark.parametrize("path", ["conversations/talk.json", "./notes.json", "notes.json"])
def test_file_is_loaded_by_its_path(talk: Talk, path: str) -> None:
    talk("one", "/save talk", "/export notes.json")
    assert talk(f"/load {path}").transcript.turns == 1


def test_path_that_does_not_exist_is_named(talk: Talk) -> None:
    with pytest.raises(ClientError, match="missing/talk.json does not exist."):
        talk("/load missing/talk.json")


def test_name_of_a_deleted_file_is_free_again(talk: Talk) -> None:
    assert talk("one", "/save talk", "/delete talk").saved_as is None
    with pytest.raises(ClientError, match="/save needs a name"):
        talk("one", "/save talk", "/delete talk", "/save")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_regular_files_are_replaced(talk: Talk, kind: str) -> None:
    Path("folder.md").mkdir()
    Path("pipe.md").symlink_to("/dev/null")
    with pytest.raises(ClientError, match=f"{kind}.md is not a regular file."):
        talk("one", f"/export {kind}.md")


def test_terminal_asks_before_a_file_is_replaced(url: str) -> None:
    Path("notes.md").write_text("mine")
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=100) as terminal:
        terminal.type("hello\r")
        terminal.wait_for("12 tokens")
        terminal.wait_for("You:", times=2)
        terminal.type("/export notes.md\r")
        terminal.wait_for("notes.md exists. Replace it?")
        terminal.type("n\r")
        terminal.wait_for("notes.md exists and was not replaced.")
        assert Path("notes.md").read_text() == "mine"
        terminal.wait_for("You:", times=3)
        terminal.type("/export notes.md\r")
        terminal.wait_for("notes.md exists. Replace it?", times=2)
        terminal.type("y")
        terminal.wait_for("The earlier file is kept as notes.md~")
        terminal.wait_for("You:", times=4)
        terminal.type("/export notes.md\rsay next\r")  # a typed-ahead line does not answer
        terminal.wait_for("notes.md exists and was not replaced.", times=2)
        terminal.wait_for("next\n12 tokens")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    assert "You said: hello" in Path("notes.md").read_text()
    assert Path("notes.md~").read_text() == "mine"


def test_all_conversations_are_deleted_here_and_on_the_server_after_a_question(
    url: str, standin: StandIn
) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=100) as terminal:
        terminal.type("hello\r")
        terminal.wait_for("12 tokens")
        terminal.type("/save kept\r")
        terminal.wait_for("saved to kept.json")
        terminal.type("/new\r")
        terminal.wait_for("New conversation.")
        terminal.type("secret\r")
        terminal.wait_for("12 tokens", times=2)
        terminal.wait_for("You:", times=4)
        terminal.type("/delete all\r")
        terminal.wait_for("Delete all conversations")
        terminal.type("n")
        terminal.wait_for("Nothing was deleted.")
        assert "needs a terminal" not in terminal.text and "❌" not in terminal.text
        assert len(standin.conversations) == len(recent_sessions(sessions_folder())) == 2
        terminal.wait_for("You:", times=5)
        terminal.type("/delete all\r")
        terminal.wait_for("Delete all conversations", times=2)
        terminal.type("y")
        terminal.wait_for("Deleted 2 conversations here and 2 on the server")
        terminal.wait_for("You:", times=6)
        terminal.type("/history\r")
        terminal.wait_for("no messages yet")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    assert not standin.conversations and not list(sessions_folder().glob("*.json"))
    assert load("kept").turns == 1


def test_all_conversations_are_deleted_on_the_server_where_none_can_be_saved_here(
    url: str, standin: StandIn
) -> None:
    sessions_folder().parent.mkdir(parents=True, exist_ok=True)
    sessions_folder().write_text("a file in place of the folder")
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=100) as terminal:
        terminal.type("hello\r")
        terminal.wait_for("12 tokens")
        terminal.wait_for("You:", times=2)
        terminal.type("/title Other\r")
        terminal.wait_for("now called Other")
        terminal.wait_for("You:", times=3)
        terminal.type("/delete all\r")
        terminal.wait_for("Delete all conversations")
        terminal.type("y")
        terminal.wait_for("Deleted 0 conversations here and 1 on the server")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    assert not standin.conversations


def test_all_conversations_are_never_deleted_without_a_terminal(talk: Talk, standin: StandIn) -> None:
    with pytest.raises(ClientError, match="Nothing was deleted"):
        talk("one", "/delete all")
    assert len(standin.conversations) == len(recent_sessions(sessions_folder())) == 1
