"""The conversations of the scripted server: trees of messages with a head, as the real server keeps them."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

from app.models import schemas as wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_ids = itertools.count(1)


def new_id() -> str:
    return f"msg_{next(_ids)}"


class StandInTree:
    """One conversation."""

    def __init__(self, title: str | None = None, system_prompt: str = "") -> None:
        self.title = title
        self.system_prompt = system_prompt
        self.messages: dict[str, wire.ConversationMessage] = {}
        self.head_id: str | None = None
        self.updated_at = NOW

    @property
    def branch(self) -> list[wire.ConversationMessage]:
        return self.branch_of(self.head_id)

    @property
    def texts(self) -> list[str]:
        """The texts of the current branch."""
        return [message.content for message in self.branch]

    def branch_of(self, message_id: str | None) -> list[wire.ConversationMessage]:
        found = []
        while message_id is not None:
            found.append(self.messages[message_id])
            message_id = found[-1].parent_id
        return found[::-1]

    def matches(self, query: str) -> bool:
        """Whether the title or the texts have all words of the query."""
        text = " ".join([self.title or "", *(message.content for message in self.messages.values())]).lower()
        return all(word in text for word in query.lower().split())

    def add(self, message: wire.ConversationMessage) -> None:
        """Adds a message that names its parent, and makes it the head."""
        self.messages[message.id] = message
        self.head_id = message.id

    def append(self, messages: Sequence[wire.TranscriptMessage | wire.ConversationMessage]) -> None:
        for message in messages:
            model, reason = message.model_name, message.finish_reason
            self.add(said(message.role, message.content, self.head_id, model, reason))

    def select(self, message_id: str) -> None:
        while children := [m.id for m in self.messages.values() if m.parent_id == message_id]:
            message_id = children[-1]
        self.head_id = message_id

    def undo(self, turns: int) -> int:
        """Moves the head up. Returns by how many messages."""
        before = self.branch
        asked = [message for message in before if message.role == "user"]
        self.head_id = asked[-min(turns, len(asked))].parent_id
        return len(before) - len(self.branch)

    def shown(self, whole: bool) -> list[wire.ConversationMessage]:
        """The messages of the tree or of the current branch, with their siblings."""
        return [self._with_siblings(m) for m in (self.messages.values() if whole else self.branch)]

    def _with_siblings(self, message: wire.ConversationMessage) -> wire.ConversationMessage:
        siblings = [m.id for m in self.messages.values() if m.parent_id == message.parent_id]
        position = siblings.index(message.id) + 1
        return message.model_copy(update={"siblings": siblings, "position": position})


def said(
    role: wire.Role,
    content: str,
    parent_id: str | None,
    model: str | None = None,
    reason: wire.FinishReason | None = None,
    message_id: str = "",
) -> wire.ConversationMessage:
    return wire.ConversationMessage(
        id=message_id or new_id(),
        parent_id=parent_id,
        role=role,
        content=content,
        parts=[wire.TextPart(text=content)],
        timestamp=NOW,
        model_name=model,
        finish_reason=reason,
    )
