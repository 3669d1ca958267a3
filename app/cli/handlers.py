"""Owns what each command does. A handler takes the session and what was typed after the command's name."""

from rich.table import Table

from app.cli.client import ClientError, Refused
from app.cli.model_table import model_table, served_from
from app.cli.session import Session, count
from app.cli.settings import KEYS, SettingError, field_of, range_of
from app.cli.transcripts import Transcript, checked_name, saved_names
from app.cli.transcripts import load as load_transcript
from app.cli.transcripts import save as save_transcript


class Leave(Exception):
    """The user wants to go."""


class Missing(ClientError):
    """A command lacks what it needs, or got what it cannot use."""


async def list_models(session: Session, argument: str) -> None:
    await session.refresh_models()
    session.terminal.say("Available Models:", "bold", "📋")
    terminal = session.terminal
    entries = sorted(session.models.values(), key=lambda entry: entry.is_current)  # it stays on the screen
    terminal.show(model_table(entries, terminal.look.symbols, terminal.console.width))
    for entry in entries:
        if entry.error is not None:
            terminal.note(f"{entry.name} failed: {entry.error}")


async def switch(session: Session, argument: str) -> None:
    if not argument:
        raise Missing("/switch needs the name of a model.", "/models lists them.")
    session.terminal.say(f"Switching to model: {argument}", symbol="🔄")
    reply = await session.switch(argument)
    session.terminal.say(reply.message, symbol="✅")
    session.terminal.note(f"Served from {served_from(reply.model_id)}, loaded in {reply.load_time:.1f} s.")
    await session.refresh_models()


async def choose_again(session: Session) -> None:
    """After the server was lost: switches to the model that was chosen, or says which one answers instead."""
    if session.chosen_model in (None, session.current_model):
        return
    try:
        await switch(session, session.chosen_model)
    except Refused as error:
        session.terminal.problem(error)
        session.terminal.note(f"{session.current_model} answers in place of {session.chosen_model}.")


async def new(session: Session, argument: str) -> None:
    system_prompt = session.transcript.system_prompt
    session.begin(Transcript(system_prompt=system_prompt, title=argument or None))
    session.terminal.say("New conversation.", symbol="🆕")


async def save(session: Session, argument: str) -> None:
    name = argument or session.saved_as or session.transcript.title
    transcript = await session.settled_transcript()
    if not transcript.messages:
        raise Missing("There is nothing to save yet.", "Type a message first.")
    if not name:
        raise Missing("/save needs a name.", "/save NAME saves to conversations/NAME.json.")
    name = checked_name(name)
    path = save_transcript(transcript, name, replaces=name == session.saved_as)
    session.saved_as = name
    session.terminal.say(f"Conversation saved to {path.name}", symbol="💾")


async def load(session: Session, argument: str) -> None:
    if not argument:
        names = ", ".join(saved_names()[:5])
        raise Missing("/load needs a name.", f"There are: {names}." if names else "Nothing is saved yet.")
    name = checked_name(argument)
    transcript = load_transcript(name)
    await session.load(transcript)
    session.saved_as = name
    session.terminal.say(f"{name}.json loaded: {count(transcript.turns, 'turn')} to go on from.", symbol="📂")
    if transcript.system_prompt:
        session.terminal.note(f"System prompt: {transcript.system_prompt}")


async def history(session: Session, argument: str) -> None:
    transcript = await session.settled_transcript()
    if not transcript.messages:
        session.terminal.note("Nothing has been said yet.")
    for message in transcript.messages:
        if message.role == "user":
            session.terminal.say("You:", "bold cyan")
        else:
            cut = " (interrupted)" if message.finish_reason == "interrupted" else ""
            session.terminal.heading(f"Assistant{cut}:")
        async with session.terminal.answer() as view:
            view.feed(message.content)
        session.terminal.say("")


async def system(session: Session, argument: str) -> None:
    if argument:
        session.set_system_prompt("" if argument == "clear" else argument)
    current = session.transcript.system_prompt
    session.terminal.say(f"System prompt: {current}" if current else "No system prompt.")
    if argument:
        session.terminal.note("It holds from the next message on.")


async def set_(session: Session, argument: str) -> None:
    key, _, value = argument.partition(" ")
    try:
        if value.strip() == "default":
            session.settings.reset(key)
        elif value:
            session.settings.set(key, value.strip())
        elif key:
            field_of(key)
    except SettingError as error:
        raise Missing(str(error), "/set lists the settings and what each takes.") from None
    _show_settings(session, [key] if key else list(KEYS))


def _show_settings(session: Session, keys: list[str]) -> None:
    table = Table.grid(padding=(0, 2))
    for key in keys:
        value = session.settings.values.get(key)
        shown = "model's default" if value is None else repr(value)
        table.add_row(key, shown, range_of(key), field_of(key).description or "")
    session.terminal.show(table)


async def retry(session: Session, argument: str) -> None:
    await session.retry()


async def continue_(session: Session, argument: str) -> None:
    await session.continue_()


async def undo(session: Session, argument: str) -> None:
    if argument and not (argument.isdecimal() and int(argument) > 0):
        raise Missing(f"/undo takes a number of turns, not {argument!r}.", "/undo drops the last one.")
    dropped = await session.undo(int(argument or 1))
    left = count(session.transcript.turns, "turn")
    session.terminal.say(f"Dropped {count(dropped, 'turn')}; {left} left.", symbol="↩")


async def clear(session: Session, argument: str) -> None:
    session.terminal.clear()


async def leave(session: Session, argument: str) -> None:
    raise Leave
