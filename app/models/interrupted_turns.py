"""Finds turns in the background whose server has died. They have ended as interrupted."""

from app.core.errors import ConversationBusy, ConversationNotFound, MessageNotFound
from app.models.chat.idempotency import log_of
from app.models.chat.turn import to_response
from app.models.chat.turn_log import TurnLog
from app.models.chat.turn_registry import turn_not_found
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks


class InterruptedTurns:
    """The turns that other processes have begun, and that no process runs any more."""

    def __init__(self, store: ConversationStore, locks: TurnLocks) -> None:
        self._store = store
        self._locks = locks

    async def log(self, owner: str, message_id: str) -> TurnLog:
        """Returns the events of the owner's turn: its start and its end.

        Raises:
            TurnNotFound: there is no such turn, it has ended otherwise, or another process runs it.
        """
        conversation_id = await self._store.find_turn(owner, message_id)
        if conversation_id is None:
            raise turn_not_found()
        try:
            async with self._locks.hold(conversation_id):  # which stores what the process has left
                conversation = await self._store.get(owner, conversation_id)
                (*_, reply) = await self._store.branch(conversation, message_id, turns=1)
        except (ConversationBusy, ConversationNotFound, MessageNotFound):
            raise turn_not_found() from None
        return log_of(reply, to_response(conversation, reply))
