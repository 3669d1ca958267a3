"""Limits each conversation to one turn at a time."""

from collections.abc import AsyncIterator, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from app.core.errors import ConversationBusy


class TurnLocks(Protocol):
    """Keeps other turns out of a conversation, in this process and in all that share its store."""

    def hold(self, conversation_id: str) -> AbstractAsyncContextManager[None]:
        """Holds the conversation's lock without waiting for it.

        Raises:
            ConversationBusy: another turn holds it.
        """

    async def settle(self, conversation_id: str) -> None:
        """Stores the turn in which a process has died, as far as it is known. No turn is refused meanwhile.

        Raises:
            ConversationBusy: a turn holds the conversation's lock.
        """

    async def is_held(self, conversation_id: str) -> bool:
        """Returns whether a turn of any process holds the conversation's lock now."""


class LocalTurnLocks:
    """The ids of the conversations that are in the middle of a turn. Use it in one event loop only."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @property
    def held(self) -> Set[str]:
        """A live view of these ids."""
        return self._held

    @asynccontextmanager
    async def hold(self, conversation_id: str) -> AsyncIterator[None]:
        """See TurnLocks."""
        if conversation_id in self._held:
            raise busy()
        self._held.add(conversation_id)
        try:
            yield
        finally:
            self._held.discard(conversation_id)

    async def settle(self, conversation_id: str) -> None:
        """See TurnLocks. Turns end with their process."""
        if conversation_id in self._held:
            raise busy()

    async def is_held(self, conversation_id: str) -> bool:
        """See TurnLocks."""
        return conversation_id in self._held


def busy() -> ConversationBusy:
    return ConversationBusy(
        "The conversation is in the middle of a turn.", hint="Wait for the reply to end, or stop it."
    )
