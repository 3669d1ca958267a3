from pathlib import Path

import pytest

from app.cli.conversation.session import NothingYet, Session
from app.cli.errors import ClientError, Refused
from app.cli.preferences import load_preferences
from tests.cli.conftest import Seen, Talk, last_kept, typed
from tests.cli.stand_in import StandIn


def test_retry_undo_and_new(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/set seed 5", "/retry", "/undo")
    assert standin.requests[-1] == ("regenerate", {"stream": True, "seed": 5})
    assert [message.content for message in session.transcript.messages] == ["one", "You said: one"]
    assert len(standin.conversations["conv_1"]) == 2
    session = talk("one", "/new Other", "two")
    assert session.transcript.title == "Other" and session.transcript.turns == 1


def test_undo_takes_a_number_and_stops_at_the_beginning(talk: Talk, seen: Seen) -> None:
    assert talk("one", "two", "three", "/undo 2").transcript.turns == 1
    assert talk("one", "/undo 9").transcript.turns == 0
    with pytest.raises(ClientError, match="takes a number"):
        talk("one", "/undo all")


@pytest.mark.parametrize("command", ["/retry", "/continue", "/undo"])
def test_nothing_to_act_on_is_said(talk: Talk, command: str) -> None:
    with pytest.raises(NothingYet):
        talk(command)


def test_set_shows_and_checks(talk: Talk, seen: Seen) -> None:
    talk("/set", "/set top_k 5", "/set top_k default", "/set top_k")
    assert "repetition_penalty" in seen.told and "0 to 1,000,000" in seen.told
    with pytest.raises(ClientError, match="takes 0 to 2"):
        talk("/set temperature hot")
    with pytest.raises(ClientError, match="no setting"):
        talk("/set heat")


def test_retry_takes_settings_for_once_and_a_model(talk: Talk, standin: StandIn) -> None:
    session = talk("one", "/set seed 5", "/retry temperature=1.5 model=gpt2")
    wanted = {"stream": True, "seed": 5, "temperature": 1.5, "model_name": "gpt2"}
    assert standin.requests[-1] == ("regenerate", wanted)
    assert session.settings.values == {"seed": 5}
    for wrong in ("/retry hot", "/retry temperature=9", "/retry heat=1"):
        with pytest.raises(ClientError):
            talk("one", wrong)


def _editor(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = Path("editor.sh").absolute()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(path))


def test_edited_message_replaces_the_last(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, standin: StandIn
) -> None:
    _editor(monkeypatch, 'sed -i s/two/three/ "$1"')
    session = talk("one", "two", "/edit", "four")
    said = ["one", "You said: one", "three", "You said: three", "four", "You said: four"]
    assert [message.content for message in session.transcript.messages] == said == last_kept()
    assert [message["content"] for message in standin.conversations["conv_2"]] == said


def test_edit_that_is_not_answered_changes_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(session: Session) -> None:
        _editor(monkeypatch, 'echo refuse > "$1"')
        with pytest.raises(Refused):
            await typed(session, "/edit")

    session = talk("one", refused)
    assert session.draft == "refuse"
    assert (
        [message.content for message in session.transcript.messages]
        == ["one", "You said: one"]
        == last_kept()
    )


@pytest.mark.parametrize(
    ("script", "told"),
    [("true", "Nothing was changed"), ("exit 3", "ended with 3"), (None, "cannot be started")],
)
def test_editor_that_changes_nothing_or_fails_is_said(
    talk: Talk, seen: Seen, monkeypatch: pytest.MonkeyPatch, script: str | None, told: str
) -> None:
    async def edit(session: Session) -> None:
        try:
            await typed(session, "/edit")
        except ClientError as error:
            session.terminal.problem(error)

    if script is None:
        monkeypatch.setenv("VISUAL", "no-such-editor")
    else:
        _editor(monkeypatch, script)
    assert talk("one", edit).transcript.turns == 1
    assert told in seen.told


def test_system_prompt_may_come_from_a_file(talk: Talk, standin: StandIn) -> None:
    Path("role.txt").write_text("You are a pirate.\n")
    talk("/system @role.txt", "hello")
    assert standin.requests[0][1]["system_prompt"] == "You are a pirate."


def test_settings_are_kept_for_the_next_time(talk: Talk, seen: Seen) -> None:
    talk("/set temperature 0.5 --save", "/set --save", "/set stop a b --save")
    assert load_preferences().settings.values == {"temperature": 0.5, "stop": "a b"}
