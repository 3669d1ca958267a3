"""Exports conversations to files, and imports them again."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from app.conversations.archive import ArchivedConversation, DamagedLine, from_line, to_line
from app.core.errors import DomainError
from app.models.conversation import Conversation
from app.models.storage.sql.sql_storage import SqlStorage

_MAX_REPORTED = 20  # damaged lines


class ImportRefused(Exception):
    """Some lines are damaged, and nothing was imported. The message has one line for each."""


@dataclass(frozen=True, slots=True)
class ImportedCounts:
    """Numbers of conversations."""

    added: int
    present: int  # before


async def export_to_stream(storage: SqlStorage, owner: str | None, stream: TextIO) -> int:
    """Writes one line for each conversation, of one owner or of all. Returns their number."""
    count = 0
    async for _, line in _lines(storage, owner):
        stream.write(line + "\n")
        count += 1
    return count


async def export_to_folder(storage: SqlStorage, owner: str | None, folder: Path) -> int:
    """Writes a file for each conversation, named after its id. Returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    async for conversation, line in _lines(storage, owner):
        (folder / f"{conversation.id}.jsonl").write_text(line + "\n", encoding="utf-8")
        count += 1
    return count


async def import_lines(storage: SqlStorage, streams: Iterable[tuple[str, BinaryIO]]) -> ImportedCounts:
    """Stores the conversations of all streams, unless their ids are stored already.

    Raises:
        ImportRefused: a line of a stream, which is named with it, is damaged.
    """
    found = list(_read(streams))
    added = 0
    for archived in found:
        added += await storage.listing.add(archived.conversation, archived.messages)
    return ImportedCounts(added, len(found) - added)


async def _lines(storage: SqlStorage, owner: str | None) -> AsyncIterator[tuple[Conversation, str]]:
    async for conversation in storage.listing.conversations(owner):
        messages = await storage.store.messages(conversation)
        if messages or conversation.head_id is None:  # otherwise it has just been deleted
            yield conversation, to_line(conversation, messages)


def _read(streams: Iterable[tuple[str, BinaryIO]]) -> Iterable[ArchivedConversation]:
    damaged: list[str] = []
    found: dict[str, ArchivedConversation] = {}
    for name, stream in streams:
        for number, line in enumerate(stream, 1):
            try:
                if line.strip():
                    _keep(found, from_line(line))
            except (DamagedLine, DomainError) as error:
                damaged.append(f"{name}, line {number}: {error}")
    if damaged:
        more = len(damaged) - _MAX_REPORTED
        rest = [f"and {more} more lines"] if more > 0 else []
        raise ImportRefused("\n".join([*damaged[:_MAX_REPORTED], *rest]))
    return found.values()


def _keep(found: dict[str, ArchivedConversation], archived: ArchivedConversation) -> None:
    if found.setdefault(archived.conversation.id, archived) != archived:
        raise DamagedLine("another line has a different conversation with the same id")
