from pathlib import Path

import pytest

from app.cli.conversation.session import Session
from app.cli.errors import ClientError, NoAnswerYet, Refused
from app.cli.preferences import load_preferences
from tests.cli.conftest import Seen, Talk, last_autosaved, typed
from tests.cli.stand_in.state import StandIn


def test_retry_undo_and_new(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/set seed 5", "/retry", "/undo")
    kind, body = standin.requests[-1]
    seeded = {"stream": True, "background": True, "seed": 5}
    old = {"message_id": body["message_id"], "expected_head_id": body["message_id"]}
    assert kind == "regenerate" and body == seeded | old
    assert [message.content for message in session.transcript.messages] == ["one", "You said: one"]
    assert len(standin.conversations["conv_1"].branch) == 2
    session = talk("one", "/new Other", "two")
    assert session.transcript.title == "Other" and session.transcript.turns == 1


def test_undo_takes_a_number_of_turns(talk: Talk, seen: Seen) -> None:
    assert talk("one", "two", "three", "/undo 2").transcript.turns == 1
    assert talk("one", "/undo 9").transcript.turns == 0
    with pytest.raises(ClientError, match="takes a number"):
        talk("one", "/undo all")


@pytest.mark.parametrize("command", ["/retry", "/continue", "/undo"])
def test_command_without_an_answer_is_rejected(talk: Talk, command: str) -> None:
    with pytest.raises(NoAnswerYet):
        talk(command)


def test_set_shows_and_checks_settings(talk: Talk, seen: Seen) -> None:
    talk("/set", "/set top_k 5", "/set top_k default", "/set top_k")
    assert "repetition_penalty" in seen.messages and "0 to 1,000,000" in seen.messages
    with pytest.raises(ClientError, match="must be from 0 to 2"):
        talk("/set temperature hot")
    with pytest.raises(ClientError, match="No setting is called"):
        talk("/set heat")


def test_retry_takes_settings_and_a_model_once(talk: Talk, standin: StandIn) -> None:
    session = talk("one", "/set seed 5", "/retry temperature=1.5 model=gpt2")
    wanted = {"stream": True, "background": True, "seed": 5, "temperature": 1.5, "model_name": "gpt2"}
    kind, body = standin.requests[-1]
    old = {"message_id": body["message_id"], "expected_head_id": body["message_id"]}
    assert kind == "regenerate" and body == wanted | old
    assert session.settings.values == {"seed": 5}
    for wrong in ("/retry hot", "/retry temperature=9", "/retry heat=1"):
        with pytest.raises(ClientError):
            talk("one", wrong)


def _editor(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = Path("editor.sh").absolute()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(path))


def test_edit_replaces_the_last_message(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, standin: StandIn
) -> None:
    _editor(monkeypatch, 'sed -i s/two/three/ "$1"')
    session = talk("one", "two", "/edit", "four")
    said = ["one", "You said: one", "three", "You said: three", "four", "You said: four"]
    assert [message.content for message in session.transcript.messages] == said == last_autosaved()
    assert standin.conversations["conv_1"].texts == said


def test_unanswered_edit_changes_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(session: Session) -> None:
        _editor(monkeypatch, 'echo refuse > "$1"')
        with pytest.raises(Refused):
            await typed(session, "/edit")

    session = talk("one", refused)
    assert session.draft == "refuse"
    assert (
        [message.content for message in session.transcript.messages]
        == ["one", "You said: one"]
        == last_autosaved()
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [("true", "was not changed"), ("exit 3", "exited with status 3"), (None, "cannot be started")],
)
def test_unchanged_or_failed_edit_is_reported(
    talk: Talk, seen: Seen, monkeypatch: pytest.MonkeyPatch, script: str | None, expected: str
) -> None:
    async def edit(session: Session) -> None:
        try:
            await typed(session, "/edit")
        except ClientError as error:
            session.terminal.show_error(error)

    if script is None:
        monkeypatch.setenv("VISUAL", "no-such-editor")
    else:
        _editor(monkeypatch, script)
    assert talk("one", edit).transcript.turns == 1
    assert expected in seen.messages


def test_system_prompt_may_come_from_a_file(talk: Talk, standin: StandIn) -> None:
    Path("role.txt").write_text("You are a pirate.\n")
    talk("/system @role.txt", "hello")
    assert standin.requests[0][1]["system_prompt"] == "You are a pirate."


def test_set_save_writes_the_preferences(talk: Talk, seen: Seen) -> None:
    talk("/set temperature 0.5 --save", "/set --save", "/set stop a b --save")
    assert load_preferences().settings.values == {"temperature": 0.5, "stop": "a b"}


def test_settings_fit_a_narrow_terminal(talk: Talk, seen: Seen) -> None:
    async def make_narrow(session: Session) -> None:
        session.terminal.console.width = 40

    talk(make_narrow, "/set temperature 0.5")
    assert "temperature: 0.5 (from 0 to 2)\n" in seen.messages and "0 is greedy" in seen.messages
