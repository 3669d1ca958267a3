"""Versions of answers and branches of a conversation."""

import pytest

from app.cli.conversation.session import Session
from app.cli.errors import ClientError, NoAnswerYet
from tests.cli.conftest import Seen, Steps, Talk, last_autosaved
from tests.cli.stand_in.state import StandIn


def _answers(standin: StandIn, *texts: str) -> list[Steps]:
    """Steps after each of which the server answers with another text."""

    def step(text: str) -> Steps:
        async def go(session: Session) -> None:
            standin.answer = text

        return go

    return [step(text) for text in texts]


def _three_versions(standin: StandIn) -> list[str | Steps]:
    first, second, third = _answers(standin, "Red.", "Green.", "Blue.")
    return [first, "A colour?", second, "/retry", third, "/retry"]


def test_retry_keeps_the_old_answers(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(*_three_versions(standin), "/versions")
    assert [m.content for m in session.transcript.messages] == ["A colour?", "Blue."] == last_autosaved()
    assert len(session.transcript.tree.messages) == 4
    listed = seen.messages[seen.messages.index("  1  ") :].splitlines()
    assert [line.split() for line in listed[:3]] == [
        ["1", "builtin", "Red."],
        ["2", "builtin", "Green."],
        ["*", "3", "builtin", "Blue."],
    ]


def test_version_chooses_an_answer(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(*_three_versions(standin), "/version 1", "/version next", "/version previous", "Why?")
    assert seen.answers.endswith("Red.\nGreen.\nRed.\nBlue.\n")
    said = [message.content for message in session.transcript.messages]
    assert said == ["A colour?", "Red.", "Why?", "Blue."] == standin.conversations["conv_1"].texts
    assert list(standin.conversations) == ["conv_1"]


def test_version_with_a_later_turn_shows_that_too(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/undo", "/retry", "/version 1")
    assert session.transcript.turns == 2
    assert "This branch goes on for 1 turn. The last one:" in seen.messages
    assert seen.answers.endswith("You said: one\ntwo\nYou said: two\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/version 2", "There is no version 2; this is version 1 of 1."),
        ("/version next", "There is no next version; this is version 1 of 1."),
        ("/version previous", "There is no previous version"),
        ("/version two", "takes a number, next or previous"),
        ("/version", "takes a number, next or previous"),
        ("/branch 3", "no message '3'"),
        ("/branch nothing", "no message 'nothing'"),
    ],
)
def test_version_or_branch_that_does_not_exist_is_reported(talk: Talk, line: str, expected: str) -> None:
    with pytest.raises(ClientError, match=expected):
        talk("one", line)


@pytest.mark.parametrize("line", ["/versions", "/version 1", "/branch", "/fork"])
def test_branches_need_an_answer(talk: Talk, line: str) -> None:
    with pytest.raises(NoAnswerYet):
        talk(line)


def test_branch_shows_the_tree_and_goes_back(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/undo", "/branch", "/branch 4")
    assert "Removed 1 turn; 1 turn left. /branch brings it back." in seen.messages
    assert "* 2 builtin: You said: one ← here\n  3 You: two\n  4 builtin: You said: two\n" in seen.messages
    assert session.transcript.turns == 2 and standin.conversations["conv_1"].texts[-1] == "You said: two"
    ids = list(session.transcript.tree.messages)
    assert talk("one", "two", "/branch 1").transcript.turns == 2 and ids[3].startswith("msg_")


def test_branch_takes_the_id_of_a_message(talk: Talk) -> None:
    async def go_to_the_first(session: Session) -> None:
        await session.undo(1)
        await session.select(next(iter(session.transcript.tree.messages)))

    assert talk("one", go_to_the_first).transcript.turns == 1


def test_everything_can_be_undone_and_brought_back(talk: Talk, seen: Seen) -> None:
    session = talk("one", "/undo", "/branch", "two", "/branch 2", "/branch")
    assert "You are at the beginning, before the first message." in seen.messages
    assert [m.content for m in session.transcript.messages] == ["one", "You said: one"]


def test_fork_continues_in_a_copy(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "/title Numbers", "/retry", "/fork", "two")
    assert standin.conversations["conv_1"].texts == ["one", "You said: one"]
    assert standin.conversations["conv_2"].texts == ["one", "You said: one", "two", "You said: two"]
    assert session.transcript.conversation_id == "conv_2" and session.transcript.title == "Numbers"
    assert len(session.transcript.tree.messages) == 4
    talk("/sessions")
    assert seen.messages.count("Numbers") == 3  # said by /title, and listed twice


def test_title_is_changed_on_the_server(talk: Talk, standin: StandIn) -> None:
    session = talk("/title Before", "one", "/title After", "/rename Later")
    assert session.transcript.title == standin.conversations["conv_1"].title == "Later"


def test_title_before_the_first_message_reaches_the_server(talk: Talk, standin: StandIn) -> None:
    talk("/title Numbers", "one")
    assert standin.conversations["conv_1"].title == "Numbers"


def test_old_server_has_versions_in_the_local_file_only(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.is_old = True
    session = talk(*_three_versions(standin), "/version 1", "Why?", "/title T", "/undo", "/fork")
    assert "Other versions of its messages are in the local file only." in seen.messages
    assert [m.content for m in session.transcript.messages] == ["A colour?", "Red."]
    assert standin.conversations["conv_2"].texts == ["A colour?", "Red."]


def test_lost_conversation_comes_back_with_its_branch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def forget(session: Session) -> None:
        standin.conversations.clear()

    session = talk(*_three_versions(standin), forget, "/version 2", "/retry", forget, "More?")
    assert "Other versions of its messages are in the local file only." in seen.messages
    assert "Restored 1 turn." in seen.messages
    (kept,) = standin.conversations.values()
    assert kept.texts == ["A colour?", "Blue.", "More?", "Blue."]
    versions = session.transcript.tree.siblings(session.transcript.messages[1])
    assert [version.content for version in versions] == ["Red.", "Green.", "Blue.", "Blue."]
