"""Owns the commands that bring text in and out: files, the clipboard, documents."""

import asyncio
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.cli.commands.command import Choice, Command
from app.cli.conversation.attachments import attachment
from app.cli.conversation.session import Session
from app.cli.errors import UsageError
from app.cli.input.clipboard import copied_by
from app.cli.output.formatting import count, size_of, tokens_about
from app.cli.output.load_progress import shown_if_long


async def read(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError(
            "/read needs the path of a file.", "/read PATH attaches its text to the next message."
        )
    text = attachment(argument)
    session.attached.append(text)
    size = f"{size_of(len(text.encode()))}, {tokens_about(text)}"
    session.terminal.say(f"{argument} goes with your next message: {size}.", symbol="📎")


async def copy(session: Session, argument: str) -> None:
    """The last answer; `2` the one before it; `code` its code; `all` the conversation. Raw, as it came."""
    from app.cli.conversation.documents import (
        as_markdown,  # Markdown takes long to import; the first prompt does not wait
    )

    transcript = await session.settled_transcript()
    answers = [message.content for message in transcript.messages if message.role == "assistant"]
    if not answers:
        raise UsageError("There is no answer to copy yet.", "Type a message first.")
    what, _, which = argument.partition(" ")
    if what == "all":
        told, text = "the conversation", as_markdown(transcript)
    elif what == "code":
        told, text = _code(answers[-1], which.strip())
    else:
        told, text = "the answer", answers[-_number(what or "1", len(answers), "answer")]
    way = await copied_by(text, session.terminal)
    lines = count(len(text.splitlines()), "line")
    session.terminal.say(f"Copied {told}, {lines}, {way}.", symbol="📋")


def _code(answer: str, which: str) -> tuple[str, str]:
    from app.cli.conversation.documents import code_blocks

    blocks = code_blocks(answer)
    if not blocks:
        raise UsageError("There is no code in the last answer.", "/copy copies the whole of it.")
    number = _number(which or "1", len(blocks), "code block")
    return f"code block {number} of {len(blocks)}", blocks[number - 1]


def _number(typed: str, most: int, noun: str) -> int:
    if not typed.isdecimal() or not 0 < int(typed) <= most:
        raise UsageError(
            f"There is no {noun} {typed!r}: there {'is' if most == 1 else 'are'} {most}.",
            "/help copy tells what it takes.",
        )
    return int(typed)


async def export(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/export needs the name of a file.", "It ends in .md, .json or .html.")
    from app.cli.conversation.documents import document, write_document

    transcript = await session.settled_transcript()
    if not transcript.messages:
        raise UsageError("There is nothing to export yet.", "Type a message first.")
    path = Path(argument).expanduser()
    stopped = threading.Event()
    async with shown_if_long(session.terminal, f"writing {path}"):
        try:
            content = await asyncio.to_thread(document, transcript, path, stopped.is_set)
        finally:
            stopped.set()  # Ctrl-C ends the wait for the thread; the end of the client waits for it once more
    write_document(content, path)
    session.terminal.say(f"Exported {count(transcript.turns, 'turn')} to {path}", symbol="💾")


def _copies(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [("code", "its first code block"), ("all", "the whole conversation")] if not typed else ()


COMMANDS = (
    Command("read", "PATH", "attach the text of a file to the next message", read, takes_path=True),
    Command(
        "copy",
        "[N|code [K]|all]",
        "copy an answer, its code, or all",
        copy,
        _copies,
        more="As it came, in Markdown: /copy 2 is the answer before the last, /copy code 2 the second block.",
    ),
    Command(
        "export",
        "FILE.md|.json|.html",
        "write the conversation as a document",
        export,
        takes_path=True,
    ),
)
