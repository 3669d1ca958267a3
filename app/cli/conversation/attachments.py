"""Attaches the text of files to a message: `@path` in the message, or /read."""

import re
from pathlib import Path

from app.cli.errors import UsageError
from app.cli.files import check_regular
from app.cli.output.formatting import format_size, format_tokens
from app.cli.output.terminal import Terminal
from app.cli.paths import expanded
from app.models.schemas import MAX_TEXT

_MENTION = re.compile(r"(?<!\S)@(\"[^\"\n]+\"|[^\s\"]+)")
MAX_BYTES_PER_CHARACTER = 4  # in UTF-8


def read_text(path: str) -> str:
    """Returns the text of a file.

    Raises:
        UsageError: the file cannot be read, is not UTF-8 text, or is too long for a message.
    """
    file = expanded(path.strip('"'))
    try:
        check_regular(file)
        size = file.stat().st_size
        if size > MAX_BYTES_PER_CHARACTER * MAX_TEXT:
            raise UsageError(f"{file} is too large for a message ({format_size(size)}).")
        text = file.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        text = "\0"
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{path!r} cannot be read: {error}.") from None
    if "\0" in text:
        raise UsageError(f"{file} is not a text file.", "Only UTF-8 text can be attached.")
    if len(text) > MAX_TEXT:
        raise UsageError(f"{file} is too long for a message ({len(text):,} characters).")
    return text


def attachment(path: str) -> str:
    """Returns the name and the text of a file, in a code fence longer than any in the text.

    Raises:
        UsageError: as `read_text` does.
    """
    text = read_text(path)
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    language = Path(path.strip('"')).suffix[1:]
    return f"{_title(path)}\n{fence}{language}\n{text.rstrip()}\n{fence}"


def read_mentioned(message: str, terminal: Terminal) -> list[str]:
    """Returns the texts of files mentioned as @path. A file that cannot be attached stays a mention."""
    texts = []
    for path in mentioned(message):
        try:
            texts.append(attachment(path))
        except UsageError as error:
            terminal.say(f"{path} is not attached: {error.message}", "yellow")
            continue
        size = f"{format_size(len(texts[-1].encode()))}, {format_tokens(texts[-1])}"
        terminal.note(f"Attached {path}: {size}.")
    return texts


def mentioned(message: str) -> list[str]:
    """Returns the existing files that the message mentions as `@path`.

    A file whose text is already in the message, because the message was edited, is left out.
    """
    names = [match[1].rstrip(".,;:!?)") for match in _MENTION.finditer(message)]
    new = [name for name in dict.fromkeys(names) if f"\n{_title(name)}\n" not in message]
    return [name for name in new if _is_file(expanded(name.strip('"')))]


def _is_file(path: Path) -> bool:
    """Returns whether it is a file. A path that this user may not look up counts as none."""
    try:
        return path.is_file()
    except OSError:  # for example a name that is too long, or in a folder that may not be searched
        return False


def _title(path: str) -> str:
    """Returns the line above the text."""
    return path.strip('"') + ":"
