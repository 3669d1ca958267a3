"""Commands that save, list, load and delete conversations: /save, /load, /sessions and /delete.

/save writes conversations/NAME.json in the working folder (format: transcripts/transcript_file.py). Besides,
every conversation is saved automatically (transcripts/autosave.py), and /sessions lists those.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.cli.commands.command import Choice, Command
from app.cli.commands.conversation import history, show_running_turn, show_system_prompt
from app.cli.conversation.known_sessions import KnownSession
from app.cli.conversation.session import Session
from app.cli.errors import TranscriptError, UsageError
from app.cli.files import checked_name, make_way
from app.cli.output.formatting import count, first_words, format_age
from app.cli.paths import expanded
from app.cli.transcripts.session_index import delete_session, delete_sessions, load_session
from app.cli.transcripts.transcript_file import (
    FOLDER,
    Transcript,
    load as load_transcript,
    load_file,
    new_session_id,
    save as save_transcript,
    saved_names,
)

EVERYTHING = "all"  # as the argument of /delete
MAX_NAMED = 10  # saved files that /sessions names
GAP = 2  # between the columns of /sessions
WIDE = 60  # from this width on, /sessions names the unit of its counts
MIN_NAME = 12  # cells for a name in a narrow terminal


async def list_sessions(session: Session, argument: str) -> None:
    await session.known_sessions.refresh(argument)
    if session.known_sessions.refusal is not None:
        session.terminal.note(f"Without those on the server: {session.known_sessions.refusal}")
    if session.known_sessions.listed:
        styles = ["bold" if _is_current(session, entry) else "" for entry in session.known_sessions.listed]
        session.terminal.show_grid(_session_rows(session), styles)
        session.terminal.note("/load NUMBER continues one of them.")
    else:
        session.terminal.note("No conversation matches." if argument else "There are no conversations yet.")
    if names := saved_names():
        session.terminal.note(f"Saved in {FOLDER}: {', '.join(names[:MAX_NAMED])}.")


def _session_rows(session: Session) -> list[tuple[str, ...]]:
    """Number, name, age, messages and place of each. The age of the current one is "current"."""
    is_wide = session.terminal.console.width >= WIDE
    rows = [
        (
            str(number),
            entry.name,
            "current" if _is_current(session, entry) else format_age(entry.changed_at),
            count(entry.messages, "message") if is_wide else str(entry.messages),
            entry.place,
        )
        for number, entry in enumerate(session.known_sessions.listed, 1)
    ]
    taken = sum(max(len(row[column]) for row in rows) + GAP for column in (0, 2, 3, 4))
    room = max(MIN_NAME, session.terminal.console.width - taken)
    return [(row[0], first_words(row[1], room), *row[2:]) for row in rows]


def _is_current(session: Session, entry: KnownSession) -> bool:
    transcript = session.transcript
    if entry.session_id is not None:
        return entry.session_id == transcript.session_id
    return entry.conversation_id == transcript.conversation_id


async def save(session: Session, argument: str) -> None:
    name = argument or session.saved_as or session.transcript.title
    transcript = await session.settled_transcript()
    if not transcript.messages:
        raise UsageError("There is nothing to save yet.", "Type a message first.")
    if not name:
        raise UsageError("/save needs a name.", "/save NAME saves to conversations/NAME.json.")
    name = checked_name(name)
    if name != session.saved_as:
        await make_way(FOLDER / f"{name}.json", session.terminal)
    path = save_transcript(transcript, name)
    session.saved_as = name
    session.terminal.say(f"Conversation saved to {path.name}", symbol="💾")


async def load(session: Session, argument: str) -> None:
    """Loads the saved file with this name, or else the session with this number or title."""
    if not argument:
        names = ", ".join(saved_names()[:5])
        hint = f"Saved conversations: {names}." if names else "/sessions lists the conversations."
        raise UsageError("/load needs a name.", hint)
    await load_and_continue(session, argument)
    await show_running_turn(session)


async def resume(session: Session, argument: str) -> None:
    """Loads a conversation, by default the last one, and shows its last turn."""
    await load_and_continue(session, argument)
    if not await show_running_turn(session):
        await history(session, "1")
    session.terminal.say("")


async def load_and_continue(session: Session, argument: str) -> None:
    """Loads a conversation, by default the last one, and sends it to the server.

    Raises:
        TranscriptError: there is no such conversation, or it cannot be read.
        UsageError: several conversations match.
    """
    transcript = await _find_transcript(session, argument)
    if not session.autosave.claim(transcript.session_id):
        transcript.session_id, transcript.conversation_id = new_session_id(), None
        session.terminal.note("This conversation is open in another client. You continue a copy.")
    await session.load(transcript)
    name = f'"{transcript.name}"'
    if _is_saved(argument):
        session.saved_as = checked_name(argument)
        name = f"{session.saved_as}.json"
    session.terminal.say(f"Loaded {name} with {count(transcript.turns, 'turn')}.", symbol="📂")
    show_system_prompt(session)


async def delete(session: Session, argument: str) -> None:
    if not argument:
        raise UsageError("/delete needs a name.", "/sessions lists the conversations.")
    if argument == EVERYTHING and not _is_saved(argument):
        return await _delete_all(session)
    entry = None if _is_saved(argument) else await session.known_sessions.find(argument)
    if entry is None:
        return _delete_saved(session, checked_name(argument))
    if _is_current(session, entry):
        raise UsageError("The current conversation cannot be deleted.", "Start another one first with /new.")
    if entry.conversation_id is not None:
        await session.client.delete(entry.conversation_id)
    if entry.session_id is not None:
        delete_session(entry.session_id, _folder(session))
    known = session.known_sessions
    known.listed = [other for other in known.listed if other != entry]
    where = {"local": "", "server": " from the server", "both": " here and from the server"}[entry.place]
    session.terminal.say(f"Deleted {entry.name}{where}", symbol="🗑")


async def _delete_all(session: Session) -> None:
    if not session.terminal.can_ask:
        hint = "/delete all asks first. Type it in a terminal, with no other line after it."
        raise UsageError("Nothing was deleted.", hint)
    places = f"on this machine and on the server {session.client.url}"
    if not await session.terminal.confirms(
        f"Delete all conversations {places}, also those of other clients?"
    ):
        return session.terminal.note("Nothing was deleted.")
    answer = await session.client.delete_all()
    session.begin(Transcript(system_prompt=session.transcript.system_prompt))
    session.known_sessions.listed = []
    folder = session.autosave.folder
    with contextlib.suppress(TranscriptError):  # the last state could not be written
        session.autosave.settle()
    here = 0 if folder is None else delete_sessions(folder)
    text = f"Deleted {count(here, 'conversation')} here and {answer.deleted} on the server"
    session.terminal.say(text, symbol="🗑")
    if answer.kept:
        session.terminal.note(f"{answer.kept} on the server stay, because they are being answered.")


def _delete_saved(session: Session, name: str) -> None:
    path = FOLDER / f"{name}.json"
    try:
        path.unlink()
    except OSError as error:
        hint = "/sessions lists the conversations."
        raise TranscriptError(f"{path} cannot be deleted: {error.strerror}.", hint) from None
    if session.saved_as == name:
        session.saved_as = None
    session.terminal.say(f"Deleted {path}", symbol="🗑")


async def _find_transcript(session: Session, argument: str) -> Transcript:
    if _is_saved(argument):
        return load_transcript(checked_name(argument))
    if _is_path(argument):
        return load_file(expanded(argument))
    if not argument and not await session.known_sessions.refresh(limit=1):
        raise TranscriptError("There is no earlier conversation to continue.")
    entry = await session.known_sessions.find(argument or "#1")
    if entry is None:
        return load_transcript(checked_name(argument))  # raises, naming the files that exist
    if entry.session_id is None:
        return Transcript(conversation_id=entry.conversation_id)  # the server has its messages
    transcript = load_session(entry.session_id, _folder(session))
    transcript.conversation_id = entry.conversation_id or transcript.conversation_id
    return transcript


def _folder(session: Session) -> Path:
    if session.autosave.folder is None:
        raise UsageError("Conversations are not saved automatically here.", "Use /save NAME and /load NAME.")
    return session.autosave.folder


def _is_saved(argument: str) -> bool:
    return argument.removesuffix(".json") in saved_names()


def _is_path(argument: str) -> bool:
    """Returns whether it names a JSON file outside the list of saved ones. Titles may contain slashes."""
    return argument.endswith(".json") and (os.sep in argument or expanded(argument).is_file())


def _all_names(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    if typed:
        return ()
    saved = [(name, "saved") for name in saved_names()]
    return saved + [(entry.name, format_age(entry.changed_at)) for entry in session.known_sessions.listed]


def _saved_names(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [(name, "") for name in saved_names()] if not typed else ()


COMMANDS = (
    Command(
        "save",
        "[NAME]",
        "save the conversation to conversations/NAME.json",
        save,
        _saved_names,
        more="Without NAME it is saved under its last name, or under its title.",
    ),
    Command(
        "load",
        "NAME|NUMBER|FILE.json",
        "continue a saved conversation",
        load,
        _all_names,
        more="NAME is that of a file in conversations, or the title of an earlier conversation. NUMBER is\n"
        "that of /sessions. FILE.json is the path of any other file.",
    ),
    Command(
        "sessions",
        "[QUERY]",
        "list past conversations, here and on the server",
        list_sessions,
        more="Every conversation is saved automatically; the server may keep others. QUERY is\n"
        "some letters of a title, in order, or words of a conversation on the server.",
    ),
    Command(
        "delete",
        "NAME|NUMBER|all",
        "delete a saved conversation, or all, here and on the server",
        delete,
        _all_names,
        more="/delete all asks first. The files of /save and /export stay, and the history of typed lines.",
    ),
)
