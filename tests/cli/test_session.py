import asyncio
import time
from pathlib import Path

import pytest

from app.cli.command import Leave
from app.cli.conversation_commands import resume
from app.cli.errors import ClientError, Refused, StreamBroken, TranscriptError
from app.cli.interrupts import Interrupted, Interrupts
from app.cli.journal import Journal
from app.cli.places import sessions_folder
from app.cli.preferences import load_preferences
from app.cli.session import NothingYet, Session
from app.cli.sessions import kept_sessions, load_session
from app.cli.transcripts import Transcript, load
from app.models.schemas import TranscriptMessage
from tests.cli.conftest import Seen, Steps, Talk, typed
from tests.cli.standin import StandIn


def _interrupted(line: str, seen: Seen) -> Steps:
    """Types the line, and Ctrl-C once the answer shows."""

    async def go(session: Session) -> None:
        interrupts = Interrupts()
        shown = len(seen.answers)
        running = asyncio.create_task(interrupts.run(typed(session, line)))
        while len(seen.answers) == shown:
            await asyncio.sleep(0)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    return go


def test_answers_and_what_they_cost(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("hello", "again")
    assert seen.answers == "You said: hello\nYou said: again\n"
    assert "12 tokens · 240 tokens/s · first after 0.05 s · 8 cached · context 32" in seen.told
    assert session.transcript.turns == 2 and session.context_used == 32
    assert list(standin.conversations) == ["conv_1"]


def test_settings_and_system_prompt_go_with_the_message(talk: Talk, standin: StandIn) -> None:
    talk(
        "/set temperature 0",
        "one",
        "two",
        "/system Be brief.",
        "three",
        "/system clear",
        "four",
        system_prompt="Hi",
    )
    bodies = [body for _, body in standin.requests]
    assert [body.get("system_prompt") for body in bodies] == ["Hi", None, "Be brief.", ""]
    assert {body["temperature"] for body in bodies} == {0}


def test_changed_system_prompt_is_told_by_the_next_message_also_after_retry(
    talk: Talk, standin: StandIn
) -> None:
    talk("one", "/system Be brief.", "/retry", "/continue", "two")
    told = [(kind, body.get("system_prompt")) for kind, body in standin.requests]
    assert told == [("chat", None), ("regenerate", None), ("continue", None), ("chat", "Be brief.")]


def test_cleared_system_prompt_unsets_the_servers_own(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("/system clear", "one")
    assert standin.requests == [("chat", standin.requests[0][1] | {"system_prompt": ""})]
    assert "sets no system prompt" in seen.told


def test_left_out_messages_and_a_cut_answer_are_told(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.omitted, standin.finish_reason = 4, "length"
    talk("hello")
    assert "4 of the oldest messages no longer fit" in seen.told
    assert "/continue goes on" in seen.told


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


def test_ctrl_c_keeps_what_came_and_continue_extends_it(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(_interrupted("hang on", seen))
    assert session.transcript.messages[-1].finish_reason == "interrupted"
    assert session.was_cut and session.draft == "" and session.context_used == 0
    assert standin.left.wait(5)
    session = talk(_interrupted("hang on", seen), "/continue")
    assert session.transcript.messages[-1].content == "You said: hang onmore of on"


def test_ctrl_c_before_anything_came_offers_the_message_again(talk: Talk, seen: Seen) -> None:
    async def stop_at_once(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(session.send("hello")))
        while not session.draft:
            await asyncio.sleep(0)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    session = talk(stop_at_once)
    assert session.draft == "hello" and not session.transcript.messages


def test_refused_message_is_offered_again(talk: Talk) -> None:
    async def refused(session: Session) -> None:
        with pytest.raises(Refused, match="queue is full"):
            await session.send("refuse this")

    assert talk(refused).draft == "refuse this"


def test_answer_that_fails_changes_nothing(talk: Talk, seen: Seen) -> None:
    async def failed(session: Session) -> None:
        with pytest.raises(Refused, match="process ended"):
            await session.send("fail now")

    session = talk("one", failed)
    assert session.draft == "fail now" and session.transcript.turns == 1
    assert "You said: fail now" in seen.answers


def test_connection_that_breaks_keeps_what_came_and_resends_nothing(talk: Talk, standin: StandIn) -> None:
    async def broken(session: Session) -> None:
        with pytest.raises(StreamBroken) as caught:
            await session.send("drop now")
        hint = str(caught.value.hint)
        assert "/continue" in hint and "/retry" in hint

    session = talk(broken)
    assert session.transcript.messages[-1].content == "You said: drop now"
    assert session.was_cut and [kind for kind, _ in standin.requests] == ["chat"]


def test_conversation_that_the_server_lost_is_restored_once(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def forget(session: Session) -> None:
        standin.conversations.clear()

    session = talk("one", "two", forget, "three", forget, "/retry")
    assert seen.told.count("restored 2 turns") == 1 and seen.told.count("restored 3 turns") == 1
    assert session.transcript.turns == 3
    (kept,) = standin.conversations.values()
    assert [message["content"] for message in kept[::2]] == ["one", "two", "three"]


def test_save_and_load_go_on(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("one", "/system Be kind.", "/save talk")
    assert "💾 Conversation saved to talk.json" in seen.told
    assert load("talk").messages[0].content == "one"
    session = talk("/load talk", "two", "/save")
    assert session.transcript.turns == 2 and load("talk").messages[2].content == "two"
    assert standin.requests[-1][1]["conversation_id"] == "conv_2"
    with pytest.raises(TranscriptError):
        talk("/load nothing")


def test_save_and_load_say_what_they_lack(talk: Talk) -> None:
    with pytest.raises(ClientError, match="/save needs a name"):
        talk("one", "/save")
    with pytest.raises(ClientError, match="nothing to save"):
        talk("one", "/new Title", "/save")
    with pytest.raises(ClientError, match="/load needs a name") as caught:
        talk("/load")
    assert "Nothing is saved yet" in str(caught.value.hint)
    with pytest.raises(ClientError, match="/load needs a name") as caught:
        talk("one", "/save talk", "/load")
    assert caught.value.hint == "There are: talk."


def test_saving_after_ctrl_c_saves_what_the_server_kept(talk: Talk, seen: Seen) -> None:
    talk(_interrupted("hang on", seen), "/save cut")
    assert load("cut").messages[1].content == "You said: hang on"


def test_history_shows_both_sides(talk: Talk, seen: Seen) -> None:
    talk("/history", "hello", "/history")
    assert "Nothing has been said yet." in seen.told
    assert seen.answers == "You said: hello\nhello\nYou said: hello\n"


def test_models_and_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("/models", "/switch gpt2", "hello")
    assert "gpt2: load 50%" in seen.told and "✅ Successfully switched to gpt2" in seen.told
    assert "Served from openai-community/gpt2" in seen.told
    assert session.current_model == standin.current == "gpt2"
    with pytest.raises(Refused) as caught:
        talk("/switch gtp2")
    assert caught.value.code == "model_not_found"
    with pytest.raises(ClientError, match="needs the name"):
        talk("/switch")


def test_current_model_is_listed_last(talk: Talk, seen: Seen) -> None:
    talk("/models")
    assert seen.told.index("gpt2 ") < seen.told.index("builtin ")


def test_ctrl_c_cancels_a_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def stop(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(typed(session, "/switch hang")))
        while "hang: load" not in seen.told:
            await asyncio.sleep(0)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(stop)
    assert standin.left.wait(5) and standin.current == "builtin"


def test_set_shows_and_checks(talk: Talk, seen: Seen) -> None:
    talk("/set", "/set top_k 5", "/set top_k default", "/set top_k")
    assert "repetition_penalty" in seen.told and "0 to 1,000,000" in seen.told
    with pytest.raises(ClientError, match="takes 0 to 2"):
        talk("/set temperature hot")
    with pytest.raises(ClientError, match="no setting"):
        talk("/set heat")


def test_quit_leaves(talk: Talk) -> None:
    with pytest.raises(Leave):
        talk("/quit")


# Kept as it goes on


def _kept() -> list[str]:
    """What was said in the conversation that was last kept."""
    (last,) = kept_sessions(sessions_folder(), limit=1)
    return [message.content for message in load_session(last.session_id, sessions_folder()).messages]


def test_every_turn_is_kept_and_resumed(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("one", "two", "/undo", "three")
    assert _kept() == ["one", "You said: one", "three", "You said: three"]
    session = talk(lambda session: resume(session, ""), "four")
    assert "one loaded: 2 turns to go on from." in seen.told and "You said: three" in seen.answers
    assert session.transcript.turns == 3 and len(kept_sessions(sessions_folder())) == 1
    assert len(standin.conversations["conv_2"]) == 6


def test_answer_that_is_not_over_is_kept_as_far_as_it_came(talk: Talk, seen: Seen) -> None:
    async def look_while_it_streams(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(session.send("hang on")))
        while not kept_sessions(sessions_folder()):
            await asyncio.sleep(0.01)
        assert _kept()[0] == "hang on"
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(look_while_it_streams)
    assert _kept() == ["hang on", "You said: hang on"]


def test_answer_that_fails_leaves_the_file_as_it_was(talk: Talk) -> None:
    async def failed(session: Session) -> None:
        with pytest.raises(Refused):
            await session.send("fail now")

    talk("one", failed)
    assert _kept() == ["one", "You said: one"]


def test_sessions_are_listed_found_renamed_and_deleted(talk: Talk, seen: Seen) -> None:
    talk("first words", "/new", "second words", "/rename Other title", "/sessions", "/sessions othr")
    assert "Other title" in seen.told and "first words" in seen.told
    session = talk("/sessions first", "/load #1", "/delete other")
    assert session.transcript.name == "first words"
    assert [entry.name for entry in kept_sessions(sessions_folder())] == ["first words"]
    talk("first words", "/sessions nothing like it")
    assert "No conversation is like that." in seen.told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/load words", "can mean several"),
        ("/load 9", "no number 9"),
        ("/load missing", "no conversations/missing.json"),
        ("/delete", "needs a name"),
        ("/delete 1", "goes on"),
        ("/delete missing", "cannot be deleted"),
        ("/rename", "needs a title"),
        ("/history x", "takes a number"),
    ],
)
def test_what_is_no_conversation_is_said(talk: Talk, line: str, told: str) -> None:
    with pytest.raises(ClientError, match=told):
        talk("first words", "/new", "second words", line)


def test_conversation_that_is_open_elsewhere_is_copied(talk: Talk, seen: Seen) -> None:
    async def open_elsewhere(session: Session) -> None:
        assert elsewhere.claim(kept_sessions(sessions_folder())[0].session_id)

    elsewhere = Journal(sessions_folder())
    talk("one")
    talk(open_elsewhere, lambda session: resume(session, ""), "two")
    assert "this one gets a copy" in seen.told
    assert sorted(entry.turns for entry in kept_sessions(sessions_folder())) == [1, 2]
    elsewhere.close()


def test_saved_file_is_deleted_by_its_name(talk: Talk) -> None:
    talk("one", "/save talk", "/delete talk")
    with pytest.raises(TranscriptError):
        load("talk")


# Turns once more


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
    assert [message.content for message in session.transcript.messages] == said == _kept()
    assert [message["content"] for message in standin.conversations["conv_2"]] == said


def test_edit_that_is_not_answered_changes_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(session: Session) -> None:
        _editor(monkeypatch, 'echo refuse > "$1"')
        with pytest.raises(Refused):
            await typed(session, "/edit")

    session = talk("one", refused)
    assert session.draft == "refuse"
    assert [message.content for message in session.transcript.messages] == ["one", "You said: one"] == _kept()


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


def test_files_go_with_the_message(talk: Talk, seen: Seen, standin: StandIn) -> None:
    Path("a.txt").write_text("A\n")
    Path("b.txt").write_text("B\n")
    talk("/read a.txt", "look at @b.txt", "and now")
    asked = [body["message"] for _, body in standin.requests]
    assert asked == ["look at @b.txt\n\nb.txt:\n```txt\nB\n```\n\na.txt:\n```txt\nA\n```", "and now"]
    assert "a.txt goes with your next message: 19 bytes, about 5 tokens." in seen.told
    assert "With b.txt: 19 bytes, about 5 tokens." in seen.told


def test_system_prompt_may_come_from_a_file(talk: Talk, standin: StandIn) -> None:
    Path("role.txt").write_text("You are a pirate.\n")
    talk("/system @role.txt", "hello")
    assert standin.requests[0][1]["system_prompt"] == "You are a pirate."


def test_settings_are_kept_for_the_next_time(talk: Talk, seen: Seen) -> None:
    talk("/set temperature 0.5 --save", "/set --save", "/set stop a b --save")
    assert load_preferences().settings.values == {"temperature": 0.5, "stop": "a b"}


# What is seen of it


def test_thoughts_are_shown_apart_and_stay_out_of_the_answer(talk: Talk, seen: Seen) -> None:
    session = talk("think about it")
    assert seen.answers == "You said: think about it\n" and "about it\n\n" in seen.told
    assert session.transcript.messages[1].content == "You said: think about it"


def test_statistics_and_status(talk: Talk, seen: Seen) -> None:
    talk("one", "/switch gpt2", "two", "/stats", "/status")
    assert "builtin" in seen.told and "40%" in seen.told and "▇" not in seen.told.partition("/stats")[0]
    assert "cpu float32, 400 MB of memory" in seen.told and "1 turn" not in seen.told.rpartition("conv")[2]
    with pytest.raises(ClientError, match="no answer since"):
        talk("/stats")


def test_documents_are_exported(talk: Talk, seen: Seen) -> None:
    talk("one", "/export talk.md")
    assert "## Assistant (builtin)\n\nYou said: one" in Path("talk.md").read_text()
    for line in ("/export", "/export talk.pdf"):
        with pytest.raises(ClientError):
            talk("one", line)


def _long_talk(turns: int) -> Transcript:
    answer = "- *one*\n- `two`\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\n" * 8
    asked = TranscriptMessage(role="user", content="Go on.")
    return Transcript(messages=[asked, TranscriptMessage(role="assistant", content=answer)] * turns)


def test_export_of_a_long_conversation_shows_itself_and_can_be_stopped(talk: Talk, seen: Seen) -> None:
    stopped_at = 0.0

    async def go(session: Session) -> None:
        nonlocal stopped_at
        session.begin(_long_talk(turns=10_000))  # many seconds of work
        interrupts = Interrupts()
        writing = asyncio.create_task(interrupts.run(typed(session, "/export talk.html")))
        while not seen.told:
            await asyncio.sleep(0.01)
        interrupts.fire()
        stopped_at = time.monotonic()
        with pytest.raises(Interrupted):
            await writing

    talk(go)
    assert time.monotonic() - stopped_at < 2  # with the thread that wrote it
    assert seen.told == "writing talk.html...\n" and not Path("talk.html").exists()


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        ("/copy", "```\na\n```\n```\nb\n```"),
        ("/copy 2", "You said: one"),
        ("/copy code", "a\n"),
        ("/copy code 2", "b\n"),
        ("/copy code 3", None),
        ("/copy 3", None),
        ("/copy x", None),
    ],
)
def test_answers_are_copied_as_they_came(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, copied: str | None
) -> None:
    (tmp_path / "wl-copy").write_text(f"#!/bin/sh\ncat > {tmp_path}/copied\n")
    (tmp_path / "wl-copy").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("WAYLAND_DISPLAY", "w")
    steps = ("one", "say ```\na\n```\n```\nb\n```", line)
    if copied is None:
        with pytest.raises(ClientError, match="There is no"):
            talk(*steps)
    else:
        talk(*steps)
        assert (tmp_path / "copied").read_text() == copied


def test_models_are_compared_outside_the_conversation(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/compare builtin gpt2 gtp2")
    assert seen.answers.endswith("You said: two\nYou said: two\nYou said: two\n")
    assert "gpt2:" in seen.told and "There is no gtp2. Did you mean gpt2?" in seen.told
    assert session.transcript.turns == 2 and list(standin.conversations) == ["conv_1"]
    for lines in (["/compare gpt2"], ["one", "/compare"]):
        with pytest.raises(ClientError):
            talk(*lines)
