import pytest

from app.cli.commands.command import Leave
from app.cli.commands.saving import resume
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, TranscriptError
from app.cli.paths import sessions_folder
from app.cli.transcripts.autosave import Autosave
from app.cli.transcripts.session_index import recent_sessions
from app.cli.transcripts.transcript_file import load
from tests.cli.conftest import Seen, Talk, interrupted, last_autosaved
from tests.cli.stand_in.state import StandIn


def test_saved_conversation_can_be_continued(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("one", "/system Be kind.", "/save talk")
    assert "💾 Conversation saved to talk.json" in seen.messages
    assert load("talk").messages[0].content == "one"
    session = talk("/load talk", "two", "/save")
    assert session.transcript.turns == 2 and load("talk").messages[2].content == "two"
    assert standin.requests[-1][1]["conversation_id"] == "conv_2"
    with pytest.raises(TranscriptError):
        talk("/load nothing")


def test_save_and_load_report_a_missing_name(talk: Talk) -> None:
    with pytest.raises(ClientError, match="/save needs a name"):
        talk("one", "/save")
    with pytest.raises(ClientError, match="nothing to save"):
        talk("one", "/new Title", "/save")
    with pytest.raises(ClientError, match="/load needs a name") as caught:
        talk("/load")
    assert "/sessions lists" in str(caught.value.hint)
    with pytest.raises(ClientError, match="/load needs a name") as caught:
        talk("one", "/save talk", "/load")
    assert caught.value.hint == "Saved conversations: talk."


def test_save_after_ctrl_c_includes_the_partial_answer(talk: Talk, seen: Seen) -> None:
    talk(interrupted("hang on", seen), "/save cut")
    assert load("cut").messages[1].content == "You said: hang on"


def test_history_shows_both_sides(talk: Talk, seen: Seen) -> None:
    talk("/history", "hello", "/history")
    assert "This conversation has no messages yet." in seen.messages
    assert seen.answers == "You said: hello\nhello\nYou said: hello\n"


def test_history_ends_with_the_last_answer(talk: Talk, seen: Seen) -> None:
    talk("hello", "/history")
    assert seen.messages.endswith("You:\n\nAssistant:\n")


def test_new_keeps_and_shows_the_system_prompt(talk: Talk, seen: Seen) -> None:
    session = talk("/system Be brief.", "one", "/new")
    assert seen.messages.endswith("New conversation.\nSystem prompt: Be brief.\n")
    assert session.transcript.system_prompt == "Be brief."


def test_quit_raises_leave(talk: Talk) -> None:
    with pytest.raises(Leave):
        talk("/quit")


def test_every_turn_is_autosaved_and_resumed(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("one", "two", "/undo", "three")
    assert last_autosaved() == ["one", "You said: one", "three", "You said: three"]
    session = talk(lambda session: resume(session, ""), "four")
    assert 'Loaded "one" with 2 turns.' in seen.messages and "You said: three" in seen.answers
    assert session.transcript.turns == 3 and len(recent_sessions(sessions_folder())) == 1
    assert len(standin.conversations["conv_1"].branch) == 6


def test_sessions_are_listed_searched_renamed_and_deleted(talk: Talk, seen: Seen) -> None:
    talk("first words", "/new", "second words", "/title Other title", "/sessions", "/sessions othr")
    assert "Other title" in seen.messages and "first words" in seen.messages
    session = talk("/sessions first", "/load #1", "/delete other")
    assert session.transcript.name == "first words"
    assert [entry.name for entry in recent_sessions(sessions_folder())] == ["first words"]
    talk("first words", "/sessions nothing like it")
    assert "No conversation matches." in seen.messages


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/load words", "matches several"),
        ("/load 9", "no number 9"),
        ("/load missing", "conversations/missing.json does not exist"),
        ("/delete", "needs a name"),
        ("/delete 1", "current conversation"),
        ("/delete missing", "cannot be deleted"),
        ("/title", "needs a text"),
        ("/history x", "takes a number"),
    ],
)
def test_unknown_conversation_is_reported(talk: Talk, line: str, expected: str) -> None:
    with pytest.raises(ClientError, match=expected):
        talk("first words", "/new", "second words", line)


def test_conversation_that_is_open_elsewhere_is_copied(talk: Talk, seen: Seen) -> None:
    async def open_elsewhere(session: Session) -> None:
        assert elsewhere.claim(recent_sessions(sessions_folder())[0].session_id)

    elsewhere = Autosave(sessions_folder())
    talk("one")
    talk(open_elsewhere, lambda session: resume(session, ""), "two")
    assert "You continue a copy" in seen.messages
    assert sorted(entry.turns for entry in recent_sessions(sessions_folder())) == [1, 2]
    elsewhere.close()


def test_saved_file_is_deleted_by_its_name(talk: Talk) -> None:
    talk("one", "/save talk", "/delete talk")
    with pytest.raises(TranscriptError):
        load("talk")
