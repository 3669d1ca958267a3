"""Owns the commands that are about whole conversations: beginning, keeping, finding and leaving them."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.cli.commands.command import Choice, Command, Leave
from app.cli.conversation.session import Session
from app.cli.conversation.session_index import (
    SHOWN,
    SessionSummary,
    delete_session,
    load_session,
    recent_sessions,
)
from app.cli.conversation.transcript_file import (
    FOLDER,
    Transcript,
    load as load_transcript,
    new_session_id,
    save as save_transcript,
    saved_names,
)
from app.cli.errors import TranscriptError, UsageError
from app.cli.files import checked_name
from app.cli.output.formatting import age_of, count


async def new(session: Session, argument: str) -> None:
    system_prompt = session.transcript.system_prompt
    session.begin(Transcript(system_prompt=system_prompt, title=argument or None))
    session.terminal.say("New conversation.", symbol="🆕")
    _tell_system_prompt(session)


async def list_sessions(session: Session, argument: str) -> None:
    from rich.table import Table  # slow to import, and not needed for the first prompt

    session.listed = await _listed(session, argument)
    table = Table.grid(padding=(0, 2))
    for number, entry in enumerate(session.listed, 1):
        age, turns = age_of(entry.changed_at), count(entry.turns, "turn")
        style = "bold" if entry.session_id == session.transcript.session_id else ""
        table.add_row(f"{number}", entry.name, age, turns, entry.model_name or "", style=style)
    if session.listed:
        session.terminal.show(table)
        session.terminal.note("/load NUMBER goes on with one of them.")
    else:
        session.terminal.note("No conversation is like that." if argument else "No conversation is kept yet.")
    if names := saved_names():
        session.terminal.note(f"Saved in {FOLDER}: {', '.join(names[:10])}.")


async def save(session: Session, argument: str) -> None:
    name = argument or session.saved_as or session.transcript.title
    transcript = await session.settled_transcript()
    if not transcript.messages:
        raise UsageError("There is nothing to save yet.", "Type a message first.")
    if not name:
        raise UsageError("/save needs a name.", "/save NAME saves to conversations/NAME.json.")
    name = checked_name(name)
    path = save_transcript(transcript, name, replaces=name == session.saved_as)
    session.saved_as = name
    session.terminal.say(f"Conversation saved to {path.name}", symbol="💾")


async def load(session: Session, argument: str) -> None:
    """A saved file of that name; else the number of a session in the last list, or words of its title."""
    if not argument:
        names = ", ".join(saved_names()[:5])
        hint = f"There are: {names}." if names else "Nothing is saved yet; /sessions lists what was kept."
        raise UsageError("/load needs a name.", hint)
    await go_on(session, argument)


async def resume(session: Session, argument: str) -> None:
    """Loads what is named, or the conversation that was last, and shows where it stood."""
    await go_on(session, argument)
    await history(session, "1")
    session.terminal.say("")


async def find_transcript(session: Session, argument: str) -> Transcript:
    """The saved file of that name, or the session that is meant; without a name the last one.

    Raises:
        TranscriptError, Missing: there is none, or several fit.
    """
    if _is_saved(argument):
        return load_transcript(checked_name(argument))
    if not argument:
        session.listed = await _listed(session, limit=1)
        if not session.listed:
            raise TranscriptError(
                "No conversation is kept yet.", "Type a message, and the next time there is."
            )
    entry = await _found(session, argument or "#1")
    if entry is None:
        return load_transcript(checked_name(argument))  # says what there is
    return load_session(entry.session_id, _folder(session))


async def go_on(session: Session, argument: str) -> None:
    transcript = await find_transcript(session, argument)
    if not session.autosave.claim(transcript.session_id):
        transcript.session_id = new_session_id()
        session.terminal.note("Another client goes on with this conversation: this one gets a copy.")
    await session.load(transcript)
    told = transcript.name
    if _is_saved(argument):
        session.saved_as = checked_name(argument)
        told = f"{session.saved_as}.json"
    session.terminal.say(f"{told} loaded: {count(transcript.turns, 'turn')} to go on from.", symbol="📂")
    _tell_system_prompt(session)


def _tell_system_prompt(session: Session) -> None:
    if session.transcript.system_prompt:
        session.terminal.note(f"System prompt: {session.transcript.system_prompt}")


async def rename(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/rename needs a title.", "/rename TITLE gives it to this conversation.")
    session.transcript.title = argument
    session.autosave.write(session.transcript)
    session.terminal.say(f"This conversation is called {argument} now.", symbol="📝")


async def delete(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/delete needs a name.", "/sessions lists what can be deleted.")
    entry = None if _is_saved(argument) else await _found(session, argument)
    if entry is not None and entry.session_id == session.transcript.session_id:
        raise UsageError("This conversation goes on.", "/new begins another one first.")
    if entry is not None:
        delete_session(entry.session_id, _folder(session))
        session.listed = [other for other in session.listed if other != entry]
        session.terminal.say(f"Deleted: {entry.name}", symbol="🗑")
        return
    path = FOLDER / f"{checked_name(argument)}.json"
    try:
        path.unlink()
    except OSError as error:
        raise TranscriptError(
            f"{path} cannot be deleted: {error.strerror}.", "/sessions lists all."
        ) from None
    session.terminal.say(f"Deleted: {path}", symbol="🗑")


async def history(session: Session, argument: str) -> None:
    if argument and not argument.isdecimal():
        raise UsageError(f"/history takes a number of turns, not {argument!r}.", "/history shows all.")
    transcript = await session.settled_transcript()
    if not transcript.messages:
        session.terminal.note("Nothing has been said yet.")
    for at, message in enumerate(transcript.messages[-2 * int(argument) if argument else 0 :]):
        if at:
            session.terminal.say("")
        if message.role == "user":
            session.terminal.say("You:", "bold cyan")
        else:
            cut = " (interrupted)" if message.finish_reason == "interrupted" else ""
            session.terminal.heading(f"Assistant{cut}:")
        async with session.terminal.answer() as view:
            view.feed(message.content)


async def clear(session: Session, argument: str) -> None:
    session.terminal.clear()


async def leave(session: Session, argument: str) -> None:
    raise Leave


def _folder(session: Session) -> Path:
    if session.autosave.folder is None:
        raise UsageError("No conversations are kept here.", "/save and /load work with files of their own.")
    return session.autosave.folder


def _is_saved(argument: str) -> bool:
    return argument.removesuffix(".json") in saved_names()


async def _listed(session: Session, query: str = "", limit: int = SHOWN) -> list[SessionSummary]:
    """Once the last state of this conversation is among them."""

    def read() -> list[SessionSummary]:
        with contextlib.suppress(TranscriptError):
            session.autosave.settle()
        return recent_sessions(_folder(session), query, limit)

    return await asyncio.to_thread(read)


async def _found(session: Session, argument: str) -> SessionSummary | None:
    """
    Raises:
        Missing: the number is none of the list, or the words fit several.
    """
    if session.autosave.folder is None:
        return None
    number = argument.removeprefix("#")
    if number.isdecimal():
        if not session.listed:
            session.listed = await _listed(session)
        if not 0 < int(number) <= len(session.listed):
            raise UsageError(f"There is no number {number} in the list.", "/sessions shows it.")
        return session.listed[int(number) - 1]
    found = await _listed(session, argument)
    named = [entry for entry in found if entry.name.lower() == argument.lower()] or found
    if len(named) > 1:
        session.listed = named
        names = ", ".join(f"#{n} {entry.name}" for n, entry in enumerate(named[:5], 1))
        raise UsageError(f"{argument!r} can mean several conversations.", f"/load NUMBER of: {names}.")
    return named[0] if named else None


def _kept(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    if typed:
        return ()
    saved = [(name, "saved") for name in saved_names()]
    return saved + [(entry.name, age_of(entry.changed_at)) for entry in session.listed]


def _saved(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [(name, "") for name in saved_names()] if not typed else ()


COMMANDS = (
    Command("new", "[TITLE]", "begin a new conversation", new),
    Command(
        "sessions",
        "[QUERY]",
        "list the conversations that were kept",
        list_sessions,
        more="Every conversation is kept as it goes on. A query is letters of its title, in their order.",
    ),
    Command("save", "[NAME]", "save the conversation to conversations/NAME.json", save, _saved),
    Command("load", "NAME|NUMBER", "go on with a saved conversation", load, _kept),
    Command("rename", "TITLE", "give this conversation a title", rename),
    Command("delete", "NAME|NUMBER", "delete a saved conversation", delete, _kept),
    Command("history", "[N]", "show the conversation, or its last N turns", history),
    Command("clear", "", "clear the screen; the conversation stays", clear),
)
