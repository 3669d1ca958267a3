"""Owns the text of files that goes with a message: `@path` in it, or /read."""

import re
from pathlib import Path

from app.cli.errors import UsageError
from app.cli.output.formatting import size_of
from app.models.schemas import MAX_TEXT

_MENTION = re.compile(r"(?<!\S)@(\"[^\"\n]+\"|[^\s\"]+)")


def read_text(path: str) -> str:
    """
    Raises:
        Missing: it cannot be read, is no text, or is more than a message holds.
    """
    file = Path(path.strip('"')).expanduser()
    try:
        if file.stat().st_size > 4 * MAX_TEXT:  # bytes of a character, at most
            raise UsageError(f"{file} has {size_of(file.stat().st_size)}: too much for a message.")
        content = file.read_bytes()
        text = content.decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{file} is no text.", "Only UTF-8 text can be attached.")
    if len(text) > MAX_TEXT:
        raise UsageError(f"{file} has {len(text):,} characters: too much for a message.")
    return text


def attachment(path: str) -> str:
    """The file as it stands in a message: its name, and its text in a fence that nothing in it ends."""
    text = read_text(path)
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    language = Path(path.strip('"')).suffix[1:]
    return f"{_titled(path)}\n{fence}{language}\n{text.rstrip()}\n{fence}"


def mentioned(message: str) -> list[str]:
    """The files that the message names as `@path`; what is no file is a word like any other. One whose text
    is in the message already, which is edited then, is not named again."""
    names = [match[1].rstrip(".,;:!?)") for match in _MENTION.finditer(message)]
    new = [name for name in dict.fromkeys(names) if f"\n{_titled(name)}\n" not in message]
    return [name for name in new if Path(name.strip('"')).expanduser().is_file()]


def _titled(path: str) -> str:
    """What stands above its text."""
    return path.strip('"') + ":"
