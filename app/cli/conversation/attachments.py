"""Attaches the text of files to a message: `@path` in the message, or /read."""

import asyncio
import re
from pathlib import Path

from app.cli.errors import ClientError, UsageError
from app.cli.files import check_regular
from app.cli.net.client import ChatClient
from app.cli.output.formatting import count, estimated_tokens, format_size
from app.cli.output.terminal import Terminal
from app.cli.paths import expanded
from app.models.schemas import MAX_TEXT

_EXTENSIONS = (  # of common text files; a decorator such as @app.get or @mock.patch has another one
    "txt|md|rst|log|csv|tsv|json|jsonl|yaml|yml|toml|ini|cfg|conf|xml|html|css|svg|tex|sql|diff|sh|bat|ps1|"
    "py|pyi|ipynb|js|mjs|ts|tsx|jsx|vue|c|h|cc|cpp|hpp|cs|rs|go|java|kt|swift|rb|php|pl|lua|jl|scala"
)
_PATH = re.compile(rf"[\w./~-]*\w\.(?:{_EXTENSIONS})", re.IGNORECASE)
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


async def size_of(text: str, client: ChatClient) -> str:
    """Returns the size of an attachment in bytes and in tokens, as the server counts them if it can."""
    try:
        tokens = count(await client.count_tokens(text), "token")
    except ClientError:  # for example because no model is loaded, or the server is an older one
        tokens = estimated_tokens(text)
    return f"{format_size(len(text.encode()))}, {tokens}"


async def read_mentioned(message: str, client: ChatClient, terminal: Terminal) -> list[str]:
    """Returns the texts of files mentioned as @path. A file that cannot be attached stays a mention."""
    for path in missing(message):
        terminal.say(f"{path} is not attached: there is no such file.", "yellow")
    texts: dict[str, str] = {}
    for path in mentioned(message):
        try:
            texts[path] = attachment(path)
        except UsageError as error:
            terminal.say(f"{path} is not attached: {error.message}", "yellow")
    sizes = await asyncio.gather(*(size_of(text, client) for text in texts.values()))
    for path, size in zip(texts, sizes, strict=True):
        terminal.note(f"Attached {path}: {size}.")
    return list(texts.values())


def mentioned(message: str) -> list[str]:
    """Returns the existing files that the message mentions as `@path`.

    A file whose text is already in the message, because the message was edited, is left out.
    """
    return [name for name in _new_mentions(message) if _is_file(expanded(name.strip('"')))]


def missing(message: str) -> list[str]:
    """Returns the mentions that look like a file's path, but nothing is there."""
    return [name for name in _new_mentions(message) if _PATH.fullmatch(name) and not _exists(name)]


def _new_mentions(message: str) -> list[str]:
    names = [match[1].rstrip(".,;:!?)") for match in _MENTION.finditer(message)]
    return [name for name in dict.fromkeys(names) if f"\n{_title(name)}\n" not in message]


def _exists(name: str) -> bool:
    """Returns whether there is something, or may be."""
    try:
        return expanded(name).exists()
    except OSError:
        return True


def _is_file(path: Path) -> bool:
    """Returns whether it is a file. A path that this user may not look up counts as none."""
    try:
        return path.is_file()
    except OSError:  # for example a name that is too long, or in a folder that may not be searched
        return False


def _title(path: str) -> str:
    """Returns the line above the text."""
    return path.strip('"') + ":"
