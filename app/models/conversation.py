"""Owns what a conversation is: messages in turns, and which of them go into a prompt. Pure data."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.core.errors import NothingToDo
from app.models.schemas import FinishReason, Role


def now() -> datetime:
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """`prefix_` and 128 random bits: nobody guesses another's."""
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    id: str = field(default_factory=lambda: new_id("msg"))
    timestamp: datetime = field(default_factory=now)
    model_name: str | None = None
    model_id: str | None = None
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Conversation:
    """User and assistant messages in turns, beginning with the user. A turn is one of each."""

    title: str | None = None
    system_prompt: str = ""
    model_name: str | None = None  # None: whichever is current
    messages: list[Message] = field(default_factory=list)
    id: str = field(default_factory=lambda: new_id("conv"))
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)

    @property
    def size_bytes(self) -> int:
        """Of all text that is kept."""
        texts = (self.title or "", self.system_prompt, *(message.content for message in self.messages))
        return sum(len(text.encode()) for text in texts)

    def last_reply(self) -> Message:
        """The assistant's last message.

        Raises:
            NothingToDo: the conversation has no turn yet.
        """
        if not self.messages or self.messages[-1].role != "assistant":
            raise NothingToDo("The conversation has no reply yet.", hint="Send a message first.")
        return self.messages[-1]

    def commit(self, messages: Sequence[Message], *, replacing: int = 0) -> None:
        """Puts the messages at the end, in place of the last `replacing` ones."""
        self.messages[len(self.messages) - replacing :] = messages
        self.updated_at = now()

    def drop_turns(self, count: int) -> int:
        """Drops the last `count` turns, or all if there are fewer; gives the number of messages dropped.

        Raises:
            NothingToDo: there is no turn to drop.
        """
        starts = [i for i, message in enumerate(self.messages) if message.role == "user"]
        if not starts:
            raise NothingToDo("The conversation has no turn to undo.")
        first = starts[-min(count, len(starts))]
        dropped = len(self.messages) - first
        self.commit((), replacing=dropped)
        return dropped


def last_turns(messages: Sequence[Message], count: int) -> Sequence[Message]:
    """The messages of the last `count` turns; a user message without its reply is one."""
    starts = [i for i, message in enumerate(messages) if message.role == "user"]
    return messages[starts[-count] :] if len(starts) > count else messages
