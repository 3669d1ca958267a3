"""Limits each conversation to one turn at a time."""

from collections.abc import Iterator, Set
from contextlib import contextmanager

from app.core.errors import ConversationBusy


class TurnLocks:
    """The ids of the conversations that are in the middle of a turn. Use it in one event loop only."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @property
    def held(self) -> Set[str]:
        """A live view of these ids."""
        return self._held

    @contextmanager
    def hold(self, conversation_id: str) -> Iterator[None]:
        """Keeps other turns out of the conversation, without waiting.

        Raises:
            ConversationBusy: another turn holds it.
        """
        if conversation_id in self._held:
            raise ConversationBusy(
                "The conversation is in the middle of a turn.",
                hint="Wait for the reply to end, or close its stream.",
            )
        self._held.add(conversation_id)
        try:
            yield
        finally:
            self._held.discard(conversation_id)
