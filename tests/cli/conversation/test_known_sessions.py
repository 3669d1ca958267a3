"""/sessions, /load and --resume know the conversations of the server beside the local transcripts."""

from datetime import UTC, datetime, timedelta

import pytest

from app.cli.commands.saving import resume
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, UsageError
from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import recent_sessions
from app.models.schemas import TranscriptMessage
from tests.cli.conftest import Seen, Steps, Talk
from tests.cli.stand_in.state import StandIn
from tests.cli.stand_in.tree import StandInTree


def _elsewhere(standin: StandIn, asked: str, title: str | None = None, hours_ago: int = 0) -> str:
    """A conversation that another client held. Returns its id."""
    tree = StandInTree(title, "Be kind.")
    answer = TranscriptMessage(role="assistant", content=f"About {asked}.", model_name="gpt2")
    tree.append([TranscriptMessage(role="user", content=asked), answer])
    tree.updated_at = datetime.now(UTC) - timedelta(hours=hours_ago)
    return standin.begin(tree)


def _listed(seen: Seen) -> list[list[str]]:
    """The rows of the last list, by columns."""
    lines = seen.messages.splitlines()
    rows = [line for line in lines if line[:1].isdecimal() and "message" in line]
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


def _local_only(standin: StandIn) -> Steps:
    async def forget(session: Session) -> None:
        standin.conversations.clear()

    return forget


def test_sessions_lists_each_conversation_once_and_says_where_it_is(
    talk: Talk, seen: Seen, standin: StandIn
) -> None:
    talk("bread", _local_only(standin), "/new", "butter")
    _elsewhere(standin, "jam", hours_ago=2)
    _elsewhere(standin, "tea", title="Hot drinks", hours_ago=3)
    talk("/sessions")
    assert [[row[1], *row[-2:]] for row in _listed(seen)] == [
        ["butter", "2 messages", "both"],
        ["bread", "2 messages", "local"],
        ["jam", "2 messages", "server"],
        ["Hot drinks", "2 messages", "server"],
    ]
    assert _listed(seen)[2][2] == "2 hours ago"


def test_current_conversation_is_marked(talk: Talk, seen: Seen, standin: StandIn) -> None:
    _elsewhere(standin, "jam", hours_ago=2)
    talk("bread", "/sessions")
    assert [row[2] for row in _listed(seen)] == ["current", "2 hours ago"]


def test_sessions_are_searched_on_the_server_too(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("bread")
    _elsewhere(standin, "jam", title="Breakfast")
    talk("/sessions about jam")
    assert [row[1] for row in _listed(seen)] == ["Breakfast"]


def test_conversation_of_the_server_is_continued(talk: Talk, seen: Seen, standin: StandIn) -> None:
    conversation_id = _elsewhere(standin, "jam")
    session = talk("/sessions", "/load 1", "More?", "/sessions")
    assert standin.conversations[conversation_id].texts == ["jam", "About jam.", "More?", "You said: More?"]
    assert session.transcript.system_prompt == "Be kind." and session.transcript.model_name == "builtin"
    assert [entry.turns for entry in recent_sessions(sessions_folder())] == [2]
    assert _listed(seen)[-1][2:] == ["current", "4 messages", "both"]


@pytest.mark.parametrize("argument", ["", "jam"])
def test_resume_takes_a_conversation_of_the_server(
    talk: Talk, seen: Seen, standin: StandIn, argument: str
) -> None:
    _elsewhere(standin, "jam")
    session = talk(lambda session: resume(session, argument))
    assert session.transcript.name == "jam" and seen.answers.endswith("jam\nAbout jam.\n")


def test_resume_continues_the_same_conversation_of_the_server(talk: Talk, standin: StandIn) -> None:
    talk("one", "/retry")
    session = talk(lambda session: resume(session, ""), "two")
    assert list(standin.conversations) == ["conv_1"] and len(session.transcript.tree.messages) == 5


def test_resume_shows_what_another_client_has_added(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("one")
    standin.conversations["conv_1"].append(
        [
            TranscriptMessage(role="user", content="two"),
            TranscriptMessage(role="assistant", content="From elsewhere."),
        ]
    )
    session = talk(lambda session: resume(session, ""))
    assert seen.answers.endswith("two\nFrom elsewhere.\n") and session.transcript.turns == 2


def test_lost_conversation_is_resumed_from_the_local_file(talk: Talk, standin: StandIn) -> None:
    talk("one", "/retry", _local_only(standin))
    session = talk(lambda session: resume(session, ""))
    assert standin.conversations["conv_2"].texts == ["one", "You said: one"]
    assert len(session.transcript.tree.messages) == 3


def test_old_server_is_searched_by_titles_and_beginnings(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.is_old = True
    _elsewhere(standin, "jam")
    _elsewhere(standin, "tea")
    session = talk("/sessions ja", "/load jam")
    assert [row[1] for row in _listed(seen)] == ["jam"] and session.transcript.turns == 1


def test_server_that_refuses_the_list_leaves_the_local_ones(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.refuses_list = True
    talk("bread", "/sessions")
    assert "Without those on the server: You may not list conversations." in seen.messages
    assert [row[1] for row in _listed(seen)] == ["bread"]


def test_delete_removes_both_copies(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("bread", "/new", "butter", "/delete bread")
    assert "Deleted bread here and from the server" in seen.messages
    assert [tree.texts[0] for tree in standin.conversations.values()] == ["butter"]
    _elsewhere(standin, "jam")
    talk("/delete jam")
    assert "Deleted jam from the server" in seen.messages
    with pytest.raises(ClientError, match="cannot be deleted"):
        talk("/delete jam")


def test_current_conversation_of_the_server_cannot_be_deleted(talk: Talk, standin: StandIn) -> None:
    _elsewhere(standin, "jam")
    with pytest.raises(UsageError, match="current conversation"):
        talk("/load jam", "/delete jam")
