"""Splits the messages of a chat into turns. A prompt may omit the oldest turns."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import ChatMessage, Submit


@dataclass(frozen=True, slots=True)
class History:
    """A chat. `head` and `last` must stay in the prompt; the `turns` between them, oldest first, may go."""

    head: tuple[ChatMessage, ...]
    turns: tuple[tuple[ChatMessage, ...], ...]
    last: tuple[ChatMessage, ...]

    @classmethod
    def of(cls, request: Submit) -> "History":
        """Raises InvalidRequest if the request has no message, or no assistant's message to continue."""
        messages = request.messages or ()
        if not messages:
            raise InvalidRequest("a chat needs at least one message")
        if request.continue_final_message and messages[-1].role != "assistant":
            raise InvalidRequest("only an assistant's final message can be continued")
        begin = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        turns = _turns(messages[begin:])
        return cls(messages[:begin], turns[:-1], turns[-1] if turns else ())

    def without(self, omitted_turns: int) -> tuple[ChatMessage, ...]:
        """Returns the messages without those of the oldest turns."""
        kept = self.turns[omitted_turns:]
        return (*self.head, *(message for turn in kept for message in turn), *self.last)

    def messages_in(self, omitted_turns: int) -> int:
        """Returns how many messages the oldest turns have."""
        return sum(len(turn) for turn in self.turns[:omitted_turns])


def _turns(messages: Sequence[ChatMessage]) -> tuple[tuple[ChatMessage, ...], ...]:
    """Returns the turns. A new turn begins at each user message."""
    turns: list[list[ChatMessage]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return tuple(tuple(turn) for turn in turns)


def fold_system_messages(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Returns the messages with each system message prepended to the message after it."""
    folded: list[ChatMessage] = []
    for message in messages:
        if folded and folded[-1].role == "system":
            message = replace(message, content=f"{folded.pop().content}\n\n{message.content}")
        folded.append(message)
    return tuple(folded)
