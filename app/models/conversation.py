"""Defines conversations and their messages. Both are immutable: every change returns a new conversation."""

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from app.core.errors import NothingToDo
from app.core.literals import FinishReason, Role

_MESSAGE_BYTES = 400  # of a message beside its text


def now() -> datetime:
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """Returns `prefix_` and 128 random bits, because anyone who knows an id can read the conversation."""
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message. Only a reply has `model_name`, `model_id` and `finish_reason`."""

    role: Role
    content: str
    id: str = field(default_factory=lambda: new_id("msg"))
    timestamp: datetime = field(default_factory=now)
    model_name: str | None = None
    model_id: str | None = None
    finish_reason: FinishReason | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.content.encode())


@dataclass(frozen=True, slots=True)
class Conversation:
    """A sequence of turns, each a user message and its reply."""

    title: str | None = None
    system_prompt: str = ""
    model_name: str | None = None  # None: the current model
    messages: tuple[Message, ...] = ()
    id: str = field(default_factory=lambda: new_id("conv"))
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)

    @property
    def size_bytes(self) -> int:
        """The size of the title, the system prompt and all messages."""
        texts = len((self.title or "").encode()) + len(self.system_prompt.encode())
        return texts + sum(message.size_bytes for message in self.messages)

    @property
    def memory_bytes(self) -> int:
        """Roughly the memory that it takes: Python stores up to four bytes for each character of a text."""
        texts = sys.getsizeof(self.title) + sys.getsizeof(self.system_prompt)
        return texts + sum(_MESSAGE_BYTES + sys.getsizeof(message.content) for message in self.messages)

    def last_reply(self) -> Message:
        """Returns the assistant's last message.

        Raises:
            NothingToDo: the conversation has no reply yet.
        """
        if not self.messages or self.messages[-1].role != "assistant":
            raise NothingToDo("The conversation has no reply yet.", hint="Send a message first.")
        return self.messages[-1]

    def with_system_prompt(self, system_prompt: str) -> "Conversation":
        return replace(self, system_prompt=system_prompt)

    def with_message(self, message: Message) -> "Conversation":
        """Returns the conversation with the message at its end."""
        return self._with((*self.messages, message))

    def without_last_reply(self) -> "Conversation":
        """Returns the conversation up to its last user message.

        Raises:
            NothingToDo: the conversation has no reply yet.
        """
        self.last_reply()
        return self._with(self.messages[:-1])

    def without_last_turns(self, count: int) -> "Conversation":
        """Returns the conversation without its last `count` turns; without any turn if it has fewer.

        Raises:
            NothingToDo: the conversation has no turn.
        """
        starts = _turn_starts(self.messages)
        if not starts:
            raise NothingToDo("The conversation has no turn to undo.")
        return self._with(self.messages[: starts[-min(count, len(starts))]])

    def _with(self, messages: tuple[Message, ...]) -> "Conversation":
        return replace(self, messages=messages, updated_at=now())


def last_turns(messages: Sequence[Message], count: int) -> Sequence[Message]:
    """Returns the messages of the last `count` turns. A user message without a reply counts as a turn.

    The engine omits further turns if they do not fit the context window: tokenization/context_window.py.
    """
    starts = _turn_starts(messages)
    return messages[starts[-count] :] if len(starts) > count else messages


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if message.role == "user"]
