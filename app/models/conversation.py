"""Defines conversations: trees of messages, with a head that names the current branch. All are immutable."""

import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from app.core.api_keys import DEFAULT_OWNER
from app.core.literals import FinishReason, Role
from app.models.schemas.parts import MessagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from app.models.schemas.replies import Parameters, Timings, Usage

PREVIEW_CHARACTERS = 80
_MESSAGE_BYTES = 1_000  # memory of a message beside its texts, with its usage, timings and parameters


def now() -> datetime:
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """Returns `prefix_` and 128 random bits, because anyone who knows an id can read the conversation."""
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class ReplyFacts:
    """How a reply was made: all that is needed to understand it or to repeat it.

    An imported reply lacks most of it, and an interrupted one has no usage and no timings. `echo` is the JSON
    of the request's fields that its API repeats with the reply; None for the native API.
    """

    model_name: str | None = None
    model_id: str | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    parameters: Parameters | None = None
    omitted_messages: int = 0
    echo: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a tree. Only a reply has `reply`.

    `depth` is the number of messages from the beginning of the conversation to this one, both included.
    """

    role: Role
    parts: tuple[MessagePart, ...]
    parent_id: str | None = None
    depth: int = 1
    id: str = field(default_factory=lambda: new_id("msg"))
    timestamp: datetime = field(default_factory=now)
    reply: ReplyFacts | None = None

    @property
    def content(self) -> str:
        """The text of the message, without thinking and tool calls."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def thinking(self) -> str | None:
        """The thinking of a reply; None if there is none."""
        pieces = [part.text for part in self.parts if isinstance(part, ThinkingPart)]
        return "".join(pieces) if pieces else None

    @property
    def size_bytes(self) -> int:
        """The size of all texts in UTF-8."""
        return sum(len(text.encode()) for text in self._all_texts())

    @property
    def memory_bytes(self) -> int:
        """Roughly the memory that it takes: Python stores up to four bytes for each character of a text."""
        return _MESSAGE_BYTES + sum(map(sys.getsizeof, self._all_texts()))

    def _all_texts(self) -> Iterator[str]:
        for part in self.parts:
            yield from _texts(part)
        if self.reply is not None and self.reply.echo is not None:
            yield self.reply.echo

    def below(self, parent: "Message | None") -> "Message":
        """Returns this message as a child of `parent`; as the beginning of a conversation if it is None."""
        if parent is None:
            return replace(self, parent_id=None, depth=1)
        return replace(self, parent_id=parent.id, depth=parent.depth + 1)


def text_message(role: Role, text: str, reply: ReplyFacts | None = None) -> Message:
    """Returns a message with one text part, which has no parent yet."""
    return Message(role, (TextPart(text=text),), reply=reply)


def _texts(part: MessagePart) -> Iterable[str]:
    match part:
        case TextPart() | ThinkingPart():
            return (part.text,)
        case ToolCallPart():
            return (part.id, part.name, part.arguments)
        case ToolResultPart():
            return (part.id, part.content)


@dataclass(frozen=True, slots=True)
class Conversation:
    """All facts about a conversation but its messages, which the store returns by branch.

    `head_id` is the last message of the current branch; None if the branch is empty. `message_count` is the
    length of that branch, `messages_bytes` the size of the messages of all branches, and `preview` the
    beginning of the first message. `deleted_replies` are the ids of replies that were deleted as responses
    of OpenAI's API: they cannot be read there any more, but the conversation keeps them.
    """

    owner: str = DEFAULT_OWNER
    title: str | None = None
    system_prompt: str = ""
    model_name: str | None = None  # None: the current model
    head_id: str | None = None
    message_count: int = 0
    messages_bytes: int = 0
    preview: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)  # notes of its owner
    deleted_replies: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: new_id("conv"))
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)

    @property
    def size_bytes(self) -> int:
        """The size of title, system prompt, metadata, and the messages of all branches, in UTF-8."""
        texts = (self.title or "", self.system_prompt, *self.metadata, *self.metadata.values())
        return sum(len(text.encode()) for text in texts) + self.messages_bytes

    @property
    def memory_bytes(self) -> int:
        """Roughly the memory that it takes without its messages."""
        texts = (
            self.title,
            self.system_prompt,
            *self.metadata,
            *self.metadata.values(),
            *self.deleted_replies,
        )
        return _MESSAGE_BYTES + sum(map(sys.getsizeof, texts))

    def with_messages(self, *messages: Message) -> "Conversation":
        """Returns the conversation with new messages, of which the last becomes the head."""
        added = sum(message.size_bytes for message in messages)
        return replace(
            self.with_head(messages[-1]),
            messages_bytes=self.messages_bytes + added,
            preview=next(
                (preview(message) for message in messages if message.parent_id is None), self.preview
            ),
        )

    def with_head(self, head: Message | None) -> "Conversation":
        """Returns the conversation with another head; None empties the current branch."""
        return replace(
            self,
            head_id=None if head is None else head.id,
            message_count=0 if head is None else head.depth,
            updated_at=now(),
        )


def chained(messages: Iterable[Message], parent: Message | None = None) -> tuple[Message, ...]:
    """Returns the messages as one branch below `parent`."""
    chain: list[Message] = []
    for message in messages:
        parent = message.below(parent)
        chain.append(parent)
    return tuple(chain)


def preview(message: Message) -> str:
    """Returns the beginning of the message's text, in one line."""
    return " ".join(message.content[: 4 * PREVIEW_CHARACTERS].split())[:PREVIEW_CHARACTERS]
