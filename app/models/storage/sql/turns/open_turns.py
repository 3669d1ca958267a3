"""Stores the beginning of each turn in the background, in case its process dies."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models.conversation import Conversation, Message
from app.models.storage.sql.database import Database
from app.models.storage.sql.tables import open_turns
from app.models.storage.store import StoredTurn

_columns = open_turns.c


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that has begun: the conversation and its new messages as they are stored if it never ends.

    The last message is the reply.
    """

    conversation: Conversation
    messages: tuple[Message, ...]


_TURN = TypeAdapter(OpenTurn)


class OpenTurns:
    """The newest turn of each conversation if it runs in the background, or has done so.

    A turn that has ended is still found by its id, but has no content any more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, connection: AsyncConnection, turn: OpenTurn) -> None:
        """Adds the turn in place of an older one of its conversation."""
        await self.remove(connection, turn.conversation.id)
        values = {
            "conversation_id": turn.conversation.id,
            "owner": turn.conversation.owner,
            "message_id": turn.messages[-1].id,
            "content": _TURN.dump_json(turn).decode(),
        }
        await connection.execute(insert(open_turns).values(values))

    async def end(self, connection: AsyncConnection, conversation_id: str, message_id: str) -> None:
        """Keeps only the id of the turn with this reply, which is stored now, and nothing of an older one."""
        is_its = _columns.conversation_id == conversation_id
        await connection.execute(delete(open_turns).where(is_its, _columns.message_id != message_id))
        await connection.execute(update(open_turns).where(is_its).values(content=None))

    async def remove(self, connection: AsyncConnection, conversation_id: str) -> None:
        await connection.execute(delete(open_turns).where(_columns.conversation_id == conversation_id))

    async def has(self, conversation_id: str) -> bool:
        """Returns whether the conversation has a turn that has not ended."""
        query = select(_columns.message_id).where(
            _columns.conversation_id == conversation_id, _columns.content.is_not(None)
        )
        async with self._database.reading() as connection:
            return await connection.scalar(query) is not None

    async def of(self, connection: AsyncConnection, conversation_id: str) -> OpenTurn | None:
        """Returns the conversation's turn that has not ended; None if there is none."""
        query = select(_columns.content).where(_columns.conversation_id == conversation_id)
        content = await connection.scalar(query)
        return None if content is None else _TURN.validate_json(content)

    async def find(self, owner: str, message_id: str) -> StoredTurn | None:
        """Returns the owner's turn; None if it is not known."""
        query = select(_columns.conversation_id, _columns.content).where(
            _columns.message_id == message_id, _columns.owner == owner
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        reply = None if row.content is None else _TURN.validate_json(row.content).messages[-1]
        return StoredTurn(message_id, row.conversation_id, reply)

    async def conversations(self) -> Sequence[str]:
        """Returns the ids of the conversations with a turn that has not ended."""
        query = select(_columns.conversation_id).where(_columns.content.is_not(None))
        async with self._database.reading() as connection:
            return (await connection.scalars(query)).all()
