"""Finds branches, siblings and leaves in the messages of one conversation."""

from collections.abc import Sequence

from app.core.errors import MessageNotFound
from app.models.conversation import Message


class MessageTree:
    """All messages of a conversation, given in the order of their creation."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = {message.id: message for message in messages}
        self._children: dict[str | None, list[str]] = {}
        for message in messages:
            self._children.setdefault(message.parent_id, []).append(message.id)

    def find(self, message_id: str) -> Message:
        """Returns the message.

        Raises:
            MessageNotFound: the conversation has no such message.
        """
        if message_id not in self._messages:
            raise MessageNotFound("The conversation has no message with this id.")
        return self._messages[message_id]

    def branch(self, leaf_id: str | None) -> tuple[Message, ...]:
        """Returns the messages from the beginning to `leaf_id`; none if it is None.

        Raises:
            MessageNotFound.
        """
        found: list[Message] = []
        while leaf_id is not None:
            found.append(self.find(leaf_id))
            leaf_id = found[-1].parent_id
        return tuple(reversed(found))

    def siblings(self, message: Message) -> Sequence[str]:
        """Returns the ids of all messages with the same parent, this one among them, the oldest first."""
        return self._children[message.parent_id]

    def newest_leaf(self, message_id: str) -> Message:
        """Returns the end of the branch that follows the newest child from this message on.

        Raises:
            MessageNotFound.
        """
        message = self.find(message_id)
        while children := self._children.get(message.id):
            message = self._messages[children[-1]]
        return message
