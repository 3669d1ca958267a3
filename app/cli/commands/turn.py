"""Owns the commands that are about turns: answering again, going on, taking back, and how they are drawn."""

from collections.abc import Iterable, Sequence

from app.cli.commands.command import Choice, Command
from app.cli.commands.model import models
from app.cli.conversation.attachments import read_text
from app.cli.conversation.reply_settings import KEYS, SamplingSettings, SettingError, field_of, range_of
from app.cli.conversation.session import Session
from app.cli.errors import UsageError
from app.cli.input.editor import edited
from app.cli.output.formatting import count
from app.cli.preferences import save_settings

_NO_SYSTEM_PROMPT = "This conversation sets no system prompt."  # the server may have one of its own


async def retry(session: Session, argument: str) -> None:
    """With `key=value` as /set takes them, for this answer alone; `model=NAME` has another one answer."""
    once, model_name = SamplingSettings(), None
    for pair in argument.split():
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(
                f"/retry takes key=value, not {pair!r}.", "As in /retry temperature=1.2 top_k=50"
            )
        if key == "model":
            model_name = value
        else:
            _set(once, key, value)
    await session.retry(model_name, **once.values)


async def continue_(session: Session, argument: str) -> None:
    await session.continue_()


async def undo(session: Session, argument: str) -> None:
    if argument and not (argument.isdecimal() and int(argument) > 0):
        raise UsageError(f"/undo takes a number of turns, not {argument!r}.", "/undo drops the last one.")
    dropped = await session.undo(int(argument or 1))
    left = count(session.transcript.turns, "turn")
    session.terminal.say(f"Dropped {count(dropped, 'turn')}; {left} left.", symbol="↩")


async def edit(session: Session, argument: str) -> None:
    transcript = await session.settled_transcript()
    if transcript.turns == 0:
        raise UsageError("There is no message to edit yet.", "Type a message first.")
    before = transcript.messages[-2].content
    text = await edited(before, session.terminal)
    if not text.strip() or text.strip() == before.strip():
        session.terminal.note("Nothing was changed.")
        return
    session.terminal.say(f"You: {text.strip()}", "cyan")
    await session.ask_instead(text.strip())


async def system(session: Session, argument: str) -> None:
    if argument.startswith("@"):
        session.set_system_prompt(read_text(argument[1:]).strip())
    elif argument:
        session.set_system_prompt("" if argument == "clear" else argument)
    current = session.transcript.system_prompt
    session.terminal.say(f"System prompt: {current}" if current else _NO_SYSTEM_PROMPT)
    if argument:
        session.terminal.note("It holds from the next message on.")


async def set_(session: Session, argument: str) -> None:
    text = argument.removesuffix("--save").rstrip()
    key, _, value = text.partition(" ")
    value = value.strip()
    if value == "default":
        _field(key)
        session.settings.reset(key)
    elif value:
        _set(session.settings, key, value)
    elif key:
        _field(key)
    if text != argument:
        session.terminal.note(f"Kept for the next time in {save_settings(session.settings)}")
    _show_settings(session, [key] if key else list(KEYS))


def _set(settings: SamplingSettings, key: str, value: str) -> None:
    try:
        settings.set(key, value)
    except SettingError as error:
        raise UsageError(str(error), "/set lists the settings and what each takes.") from None


def _field(key: str) -> None:
    try:
        field_of(key)
    except SettingError as error:
        raise UsageError(str(error), "/set lists the settings and what each takes.") from None


def _show_settings(session: Session, keys: list[str]) -> None:
    from rich.table import Table  # slow to import, and not needed for the first prompt

    table = Table.grid(padding=(0, 2))
    for key in keys:
        value = session.settings.values.get(key)
        shown = "model's default" if value is None else repr(value)
        table.add_row(key, shown, range_of(key), field_of(key).description or "")
    session.terminal.show(table)


async def show_statistics(session: Session, argument: str) -> None:
    statistics, terminal = session.statistics, session.terminal
    if not statistics.answers:
        raise UsageError("There was no answer since the client started.", "Type a message first.")
    terminal.show(statistics.table())
    if terminal.style.symbols and len(statistics.speeds) > 1:
        slowest, fastest = min(statistics.speeds), max(statistics.speeds)
        terminal.say(f"{statistics.picture()}  {slowest:,.0f} to {fastest:,.0f} tokens/s, answer by answer")


def _settings(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    if not typed:
        return [(key, range_of(key)) for key in KEYS]
    return [("default", "the model's own"), ("--save", "keep it for the next time")]


def _pairs(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    named = [(f"model={name}", meaning) for name, meaning in models(session, ())]
    return [(f"{key}=", range_of(key)) for key in KEYS] + named


def _system(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [("clear", "no system prompt"), ("@", "the text of a file")] if not typed else ()


COMMANDS = (
    Command(
        "retry",
        "[KEY=VALUE...]",
        "have the last message answered again",
        retry,
        _pairs,
        more="As in /retry temperature=1.2, for this answer alone; model=NAME has another model answer.",
    ),
    Command("continue", "", "extend the last answer", continue_),
    Command("undo", "[N]", "drop the last turn, or the last N", undo),
    Command("edit", "", "change the last message in $EDITOR, and send it again", edit),
    Command("system", "[TEXT|@FILE|clear]", "show or set what the model is told first", system, _system),
    Command(
        "set",
        "[KEY [VALUE|default]] [--save]",
        "show or set how replies are drawn",
        set_,
        _settings,
        more="--save keeps the settings for the next time.",
    ),
    Command("stats", "", "show tokens and speeds of the answers so far", show_statistics),
)
