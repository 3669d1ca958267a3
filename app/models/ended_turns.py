"""Finds turns in the background that other processes have run: they have ended, or their process has died."""

from app.core.errors import ConversationBusy, ConversationNotFound, MessageNotFound
from app.models.chat.idempotency import log_of
from app.models.chat.turn import to_response
from app.models.chat.turn_log import TurnLog
from app.models.chat.turn_registry import turn_not_found
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks


class EndedTurns:
    """The last turn in the background of each conversation, as the store has it."""

    def __init__(self, store: ConversationStore, locks: TurnLocks) -> None:
        self._store = store
        self._locks = locks

    async def log(self, owner: str, message_id: str) -> TurnLog:
        """Returns the events of the owner's turn, with each part of the reply in one piece.

        Raises:
            TurnNotFound: there is no such turn, a later one has been stored, or another process runs it.
        """
        conversation_id = await self._store.find_turn(owner, message_id)
        if conversation_id is None:
            raise turn_not_found()
        try:
            return await self._stored(owner, conversation_id, message_id)
        except (ConversationNotFound, MessageNotFound):
            await self._settle(conversation_id)
        try:
            return await self._stored(owner, conversation_id, message_id)
        except (ConversationNotFound, MessageNotFound):
            raise turn_not_found() from None

    async def _stored(self, owner: str, conversation_id: str, message_id: str) -> TurnLog:
        conversation = await self._store.get(owner, conversation_id)
        (*_, reply) = await self._store.branch(conversation, message_id, turns=1)
        return log_of(reply, to_response(conversation, reply))

    async def _settle(self, conversation_id: str) -> None:
        """Lets the store take what a process has left that died in the turn: its lock does so."""
        try:
            async with self._locks.hold(conversation_id):
                pass
        except ConversationBusy:
            raise turn_not_found() from None
