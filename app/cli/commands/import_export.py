"""Commands that import and export text: /read, /copy and /export."""

import asyncio
import threading
from collections.abc import Iterable, Sequence

from app.cli.commands.command import Choice, Command, number_of, unexpected
from app.cli.conversation.attachments import attachment, size_of
from app.cli.conversation.session import Session
from app.cli.errors import UsageError
from app.cli.files import make_way
from app.cli.input.clipboard import copy_to_clipboard
from app.cli.output.formatting import count
from app.cli.output.load_progress import shown_if_slow
from app.cli.paths import expanded


async def read(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError(
            "/read needs the path of a file.", "/read PATH attaches its text to the next message."
        )
    if argument == "clear":
        return _detach(session)
    text = attachment(argument)
    session.attached.append(text)
    size = await size_of(text, session.client)
    session.terminal.say(f"{argument} is attached to your next message: {size}.", symbol="📎")
    session.terminal.note("/read clear removes it again.")


def _detach(session: Session) -> None:
    if not session.attached:
        raise UsageError("No file is attached.", "/read PATH attaches one to the next message.")
    removed = count(len(session.attached), "attached file")
    session.attached.clear()
    session.terminal.say(f"Removed {removed}.")


async def copy(session: Session, argument: str) -> None:
    """Copies Markdown source: the last answer, an earlier one by number, `code`, or `all`."""
    transcript = await session.settled_transcript()
    answers = [message.content for message in transcript.messages if message.role == "assistant"]
    if not answers:
        raise UsageError("There is no answer to copy yet.", "Type a message first.")
    kind, _, number = argument.partition(" ")
    if number and kind != "code":
        raise unexpected("copy", argument, "N, code, code K or all")
    if kind == "all":
        from app.cli.transcripts.documents import as_markdown  # imports a Markdown parser, which is slow

        label, text = "the conversation", as_markdown(transcript)
    elif kind == "code":
        label, text = _code_block(answers[-1], number.strip())
    else:
        label, text = "the answer", answers[-_checked_number(kind or "1", len(answers), "answer")]
    means = await copy_to_clipboard(text, session.terminal)
    lines = count(len(text.splitlines()), "line")
    session.terminal.say(f"Copied {label}, {lines}, {means}.", symbol="📋")


def _code_block(answer: str, typed: str) -> tuple[str, str]:
    """Returns a label for the block, and its code."""
    from app.cli.transcripts.documents import code_blocks

    blocks = code_blocks(answer)
    if not blocks:
        raise UsageError("The last answer contains no code.", "/copy copies the whole answer.")
    number = _checked_number(typed or "1", len(blocks), "code block")
    return f"code block {number} of {len(blocks)}", blocks[number - 1]


def _checked_number(typed: str, most: int, noun: str) -> int:
    number = number_of(typed)
    if number is None or number > most:
        raise UsageError(
            f"There is no {noun} {typed!r}; there {'is' if most == 1 else 'are'} {most}.",
            "/help copy shows the arguments.",
        )
    return number


async def export(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/export needs a file name.", "It must end in .md, .json or .html.")
    from app.cli.transcripts.documents import document, write_document

    transcript = await session.settled_transcript()
    if not transcript.messages:
        raise UsageError("There is nothing to export yet.", "Type a message first.")
    path = expanded(argument)
    stopped = threading.Event()
    async with shown_if_slow(session.terminal, f"writing {path}"):
        try:
            content = await asyncio.to_thread(document, transcript, path, stopped)
        finally:
            stopped.set()  # after Ctrl-C nobody awaits the thread until the client exits
    await make_way(path, session.terminal)
    write_document(content, path)
    session.terminal.say(f"Exported {count(transcript.turns, 'turn')} to {path}", symbol="💾")


def _copy_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [("code", "the first code block"), ("all", "the whole conversation")] if not typed else ()


COMMANDS = (
    Command(
        "read",
        "PATH|clear",
        "attach the text of a file to the next message",
        read,
        takes_path=True,
        more="/read clear removes the attached files; /read ./clear attaches a file with that name.",
        aliases=("attach",),
    ),
    Command(
        "copy",
        "[N|code [K]|all]",
        "copy an answer, its code, or the conversation",
        copy,
        _copy_choices,
        more="Copies the Markdown source. /copy 2 copies the answer before the last one,\n"
        "/copy code 2 the second code block.",
    ),
    Command(
        "export",
        "FILE.md|.json|.html",
        "export the conversation as a document",
        export,
        takes_path=True,
    ),
)
