"""Commands that configure answers: /system and /set."""

from collections.abc import Iterable, Sequence

from app.cli.commands.command import Choice, Command
from app.cli.conversation.attachments import read_text
from app.cli.conversation.sampling_settings import KEYS, SamplingSettings, SettingError, field_of, range_of
from app.cli.conversation.session import Session
from app.cli.errors import UsageError
from app.cli.preferences import save_settings

WIDE = 72  # terminal columns that /set needs for a grid
_SET_HINT = "/set lists the settings and their ranges."
_NO_SYSTEM_PROMPT = "This conversation has no system prompt."  # the server may have one


async def system(session: Session, argument: str) -> None:
    if argument.startswith("@"):
        session.set_system_prompt(read_text(argument[1:]).strip())
    elif argument:
        session.set_system_prompt("" if argument == "clear" else argument)
    current = session.transcript.system_prompt
    session.terminal.say(f"System prompt: {current}" if current else _NO_SYSTEM_PROMPT)
    if argument:
        session.terminal.note("It applies from the next message on.")


async def set_(session: Session, argument: str) -> None:
    saves = argument.split()[-1:] == ["--save"]
    text = argument.removesuffix("--save").rstrip() if saves else argument
    key, _, value = text.partition(" ")
    value = value.strip()
    if value == "default":
        _check_key(key)
        session.settings.reset(key)
    elif value:
        set_value(session.settings, key, value)
    elif key:
        _check_key(key)
    if saves:
        session.terminal.note(f"Saved for future sessions in {save_settings(session.settings)}")
    _show_settings(session, [key] if key else list(KEYS))


def set_value(settings: SamplingSettings, key: str, value: str) -> None:
    """Sets a value from the text that was typed.

    Raises:
        UsageError: the key does not exist, or the value is not allowed.
    """
    try:
        settings.set(key, value)
    except SettingError as error:
        raise UsageError(str(error), _SET_HINT) from None


def _check_key(key: str) -> None:
    try:
        field_of(key)
    except SettingError as error:
        raise UsageError(str(error), _SET_HINT) from None


def _show_settings(session: Session, keys: list[str]) -> None:
    rows = []
    for key in keys:
        value = session.settings.values.get(key)
        shown = "model's default" if value is None else repr(value)
        rows.append((key, shown, range_of(key), field_of(key).description or ""))
    if session.terminal.console.width >= WIDE:
        return session.terminal.show_grid(rows)
    for key, shown, allowed, description in rows:
        session.terminal.say(f"{key}: {shown} ({allowed})")
        session.terminal.note(description)


def _set_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    if not typed:
        return [(key, range_of(key)) for key in KEYS]
    return [("default", "the model's default"), ("--save", "keep the settings for future sessions")]


def _system_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [("clear", "no system prompt"), ("@", "the text of a file")] if not typed else ()


COMMANDS = (
    Command("system", "[TEXT|@FILE|clear]", "show or set the system prompt", system, _system_choices),
    Command(
        "set",
        "[KEY [VALUE|default]] [--save]",
        "show or change the sampling settings",
        set_,
        _set_choices,
        more="--save keeps the settings for future sessions.",
    ),
)
