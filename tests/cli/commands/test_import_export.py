import asyncio
from pathlib import Path

import pytest

from app.cli.conversation.session import Session
from app.cli.errors import ClientError
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import TranscriptMessage
from tests.cli.conftest import Seen, Talk, typed
from tests.cli.stand_in.state import StandIn
from tests.waiting import until


def test_tokens_are_estimated_if_the_server_cannot_count(talk: Talk, seen: Seen, standin: StandIn) -> None:
    Path("a.txt").write_text("A\n")
    standin.is_old = True
    talk("/read a.txt")
    assert "a.txt is attached to your next message: 19 bytes, about 5 tokens." in seen.messages


def test_attached_files_are_sent_with_the_message(talk: Talk, seen: Seen, standin: StandIn) -> None:
    Path("a.txt").write_text("A\n")
    Path("b.txt").write_text("B\n")
    talk("/attach a.txt", "look at @b.txt", "and now")
    asked = [body["message"] for _, body in standin.requests]
    assert asked == ["look at @b.txt\n\nb.txt:\n```txt\nB\n```\n\na.txt:\n```txt\nA\n```", "and now"]
    assert "a.txt is attached to your next message: 19 bytes, 4 tokens." in seen.messages
    assert "Attached b.txt: 19 bytes, 4 tokens." in seen.messages


def test_attached_files_can_be_removed(talk: Talk, seen: Seen, standin: StandIn) -> None:
    Path("a.txt").write_text("A\n")
    talk("/read a.txt", "/read a.txt", "/read clear", "hello")
    assert [body["message"] for _, body in standin.requests] == ["hello"]
    assert "Removed 2 attached files." in seen.messages
    with pytest.raises(ClientError, match="No file is attached."):
        talk("/read clear")


def test_export_writes_a_document(talk: Talk, seen: Seen) -> None:
    talk("one", "/export talk.md")
    assert "## Assistant (builtin)\n\nYou said: one" in Path("talk.md").read_text()
    for line in ("/export", "/export talk.pdf"):
        with pytest.raises(ClientError):
            talk("one", line)


def _long_talk(turns: int) -> Transcript:
    answer = "- *one*\n- `two`\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\n" * 8
    asked = TranscriptMessage(role="user", content="Go on.")
    turn = [asked, TranscriptMessage(role="assistant", content=answer)]
    return Transcript(tree=ConversationTree.linear(turn * turns))


def test_long_export_shows_progress_and_can_be_stopped(talk: Talk, seen: Seen) -> None:
    async def go(session: Session) -> None:
        session.begin(_long_talk(turns=10_000))  # exporting it takes many seconds
        interrupts = Interrupts()
        writing = asyncio.create_task(interrupts.run(typed(session, "/export talk.html")))
        await until(lambda: seen.messages)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await writing

    talk(go)
    assert seen.messages == "writing talk.html...\n" and not Path("talk.html").exists()


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
def test_copy_copies_the_markdown_source(
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
