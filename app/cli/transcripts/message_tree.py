"""The messages of a conversation as a tree, whose head names the current branch. Trees are immutable."""

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from types import MappingProxyType

from pydantic import Field

from app.models.schemas import (
    FinishReason,
    MessagePart,
    Name,
    Role,
    Text,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    TranscriptMessage,
    Usage,
    WireModel,
)

MAX_ID = 200  # characters, as in requests
LOCAL = "local_"  # begins the ids of messages that the server has not named


def local_id() -> str:
    return f"{LOCAL}{secrets.token_hex(8)}"


def checked_id(message_id: str | None) -> str:
    """Returns the server's id of a message; a local one if it has none, or one that no request may name."""
    return message_id if message_id and len(message_id) <= MAX_ID else local_id()


class TreeMessage(WireModel):
    """A message of a tree. `parts` is empty if the message is only its text, `content`."""

    id: Name = Field(default_factory=local_id)
    parent_id: Name | None = None
    role: Role
    content: Text
    parts: list[MessagePart] = Field(default_factory=list)
    timestamp: datetime | None = None
    model_name: Name | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None

    @property
    def thinking(self) -> str:
        """A reasoning model's thinking; empty if there is none."""
        return "".join(part.text for part in self.parts if isinstance(part, ThinkingPart))

    @property
    def shown(self) -> str:
        """The text for people to read, with the tools that the message calls, or their results."""
        calls = [part for part in self.parts if isinstance(part, ToolCallPart)]
        results = [part.content for part in self.parts if isinstance(part, ToolResultPart)]
        lines = [f"→ `{call.name} {call.arguments}`" for call in calls]
        return "\n\n".join(text for text in (self.content, *lines, *results) if text)

    @property
    def is_local(self) -> bool:
        """Whether the server has not named this message."""
        return self.id.startswith(LOCAL)


def _from_transcript(message: TranscriptMessage) -> TreeMessage:
    return TreeMessage(**message.model_dump())


def _placed(message: TreeMessage, parent_id: str | None, taken: Collection[str]) -> TreeMessage:
    message_id = local_id() if message.id in taken else message.id
    return message.model_copy(update={"id": message_id, "parent_id": parent_id})


def plain_parts(parts: Sequence[MessagePart]) -> list[MessagePart]:
    """Returns the parts; an empty list if there is nothing but one text."""
    return [] if len(parts) == 1 and isinstance(parts[0], TextPart) else list(parts)


@dataclass(frozen=True)
class ConversationTree:
    """Messages by id, in the order in which they were created, so that parents precede their children.

    `head_id` is the last message of the current branch; None if that branch is empty.
    """

    messages: Mapping[str, TreeMessage] = field(default_factory=lambda: MappingProxyType({}))
    head_id: str | None = None

    @classmethod
    def linear(cls, messages: Iterable[TranscriptMessage | TreeMessage]) -> "ConversationTree":
        """Returns a tree with one branch. Messages keep their ids, unless an earlier one has the same."""
        found: dict[str, TreeMessage] = {}
        head_id: str | None = None
        for given in messages:
            message = _from_transcript(given) if isinstance(given, TranscriptMessage) else given
            placed = _placed(message, head_id, found)
            found[placed.id] = placed
            head_id = placed.id
        return cls(found, head_id)

    @cached_property
    def branch(self) -> list[TreeMessage]:
        """The messages of the current branch. Do not change the list."""
        return self.branch_of(self.head_id)

    @cached_property
    def _children(self) -> Mapping[str | None, list[str]]:
        children: dict[str | None, list[str]] = {}
        for message in self.messages.values():
            children.setdefault(message.parent_id, []).append(message.id)
        return children

    def branch_of(self, leaf_id: str | None) -> list[TreeMessage]:
        """Returns the messages from the beginning to this one; none if it is None."""
        found: list[TreeMessage] = []
        while leaf_id is not None:
            found.append(self.messages[leaf_id])
            leaf_id = found[-1].parent_id
        return found[::-1]

    def children(self, message_id: str | None) -> Sequence[str]:
        """Returns the ids of the messages below this one, the oldest first; the beginnings for None."""
        return self._children.get(message_id, ())

    def siblings(self, message: TreeMessage) -> list[TreeMessage]:
        """Returns the messages of the same role below the same parent, this one among them, oldest first."""
        found = [self.messages[message_id] for message_id in self.children(message.parent_id)]
        return [sibling for sibling in found if sibling.role == message.role]

    @property
    def last_answer(self) -> TreeMessage | None:
        """The last answer of the current branch; None if there is none."""
        return next((message for message in reversed(self.branch) if message.role == "assistant"), None)

    @property
    def context_tokens(self) -> int:
        """Tokens of the context that the branch takes; 0 if unknown, as after an interrupted answer."""
        usage = None if self.last_answer is None else self.last_answer.usage
        return 0 if usage is None else usage.prompt_tokens + usage.completion_tokens

    def version_beside(self, step: int) -> TreeMessage | None:
        """Returns the version of the last answer `step` places further on; None if there is none."""
        if self.last_answer is None:
            return None
        versions = self.siblings(self.last_answer)
        place = versions.index(self.last_answer) + step
        return versions[place] if 0 <= place < len(versions) else None

    def newest_leaf(self, message_id: str) -> str:
        """Returns the end of the branch that follows the newest child from this message on."""
        while children := self.children(message_id):
            message_id = children[-1]
        return message_id

    def with_head(self, head_id: str | None) -> "ConversationTree":
        return replace(self, head_id=head_id)

    def added_below(self, parent_id: str | None, message: TreeMessage) -> "ConversationTree":
        """Returns the tree with the message below `parent_id`, as the new head.

        A message whose id is taken gets a local one.
        """
        placed = _placed(message, parent_id, self.messages)
        return ConversationTree({**self.messages, placed.id: placed}, placed.id)

    def renamed(self, ids: Mapping[str, str]) -> "ConversationTree":
        """Returns the tree with other ids. An id that is taken by another message is not used."""
        usable = {old: new for old, new in ids.items() if new not in self.messages}

        def new_id(old: str | None) -> str | None:
            return None if old is None else usable.get(old, old)

        messages = [
            message.model_copy(update={"id": new_id(message.id), "parent_id": new_id(message.parent_id)})
            for message in self.messages.values()
        ]
        return ConversationTree({message.id: message for message in messages}, new_id(self.head_id))

    def merged(self, other: "ConversationTree") -> "ConversationTree":
        """Returns the tree with the messages and the head of `other`, which replace those of the same id."""
        messages = {**self.messages, **other.messages}
        return rebuilt(messages.values(), other.head_id)


def rebuilt(messages: Iterable[TreeMessage], head_id: str | None) -> ConversationTree:
    """Returns a tree of these messages, whatever they say about each other.

    A message begins the conversation if its parent does not precede it, so there are no cycles. Of messages
    with the same id, the first counts. An unknown head is replaced by the last message.
    """
    found: dict[str, TreeMessage] = {}
    for message in messages:
        if message.id not in found:
            is_placed = message.parent_id is None or message.parent_id in found
            found[message.id] = message if is_placed else message.model_copy(update={"parent_id": None})
    if head_id is not None and head_id not in found:
        head_id = next(reversed(found), None)
    return ConversationTree(found, head_id)


def fault(messages: Sequence[TreeMessage], head_id: str | None) -> str | None:
    """Returns why these messages do not form a tree with this head; None if they do."""
    found: set[str] = set()
    for number, message in enumerate(messages):
        if message.id in found:
            return f"messages.{number}.id, which an earlier message has"
        if message.parent_id is not None and message.parent_id not in found:
            return f"messages.{number}.parent_id, which no earlier message has"
        found.add(message.id)
    if head_id is not None and head_id not in found:
        return "head_id, which no message has"
    return None
