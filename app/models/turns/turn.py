"""A turn: a request for a reply, with the end of the branch that the reply follows."""

from dataclasses import dataclass

from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage
from app.models.chat.engine_terms import append_message, chat_messages_of, grammar_of, tool_use_of
from app.models.chat.transcript import to_summary
from app.models.conversation import Conversation, Message
from app.models.schemas import RunningTurn, TurnFields

SHOWN_CHARACTERS = 500  # of a question that is not stored yet


@dataclass(frozen=True, slots=True)
class Turn:
    """A request for a reply.

    `history` is the kept end of the branch that the reply follows: it ends with the message to answer, and
    with those that are not stored yet, `new_messages`. If `continues` is set, the reply begins with its parts
    and becomes its sibling.
    """

    conversation: Conversation
    request: TurnFields
    model_name: str | None
    history: tuple[Message, ...]
    new_messages: tuple[Message, ...] = ()
    continues: Message | None = None

    @property
    def parent(self) -> Message:
        """The message that the reply answers."""
        return self.history[-1]

    @property
    def omitted_messages(self) -> int:
        """The number of messages of the branch that are not in `history`. The engine may omit more."""
        return self.parent.depth - len(self.history)

    def to_wire(self, message_id: str) -> RunningTurn:
        """Returns what another client needs to show the turn. `message_id` is the id of its reply."""
        questions = [message.content for message in self.new_messages if message.role == "user"]
        return RunningTurn(
            message_id=message_id,
            conversation_id=self.conversation.id,
            conversation=to_summary(self.conversation),
            parent_id=self.new_messages[0].parent_id if self.new_messages else self.parent.id,
            question=_beginning(questions[-1]) if questions else None,
            continues=None if self.continues is None else self.continues.id,
        )

    @property
    def size_bytes(self) -> int:
        """The size of the conversation with the new messages, and without the new reply."""
        return self.conversation.size_bytes + sum(message.size_bytes for message in self.new_messages)

    def model_input(self) -> ModelInput:
        """Returns the input for the reply: the prompt's messages, and the forms that the reply may have."""
        return ModelInput(
            self._prompt(),
            continue_final_message=self.continues is not None,
            think=None if self.request.think == "auto" else self.request.think,
            wants_thinking=self.request.think == "auto",
            grammar=grammar_of(self.request.response_format),
            tool_use=tool_use_of(self.request),
            thinking_budget=self.request.thinking_budget,
            scope=self.conversation.owner,
        )

    def _prompt(self) -> tuple[ChatMessage, ...]:
        """Returns the system prompt, the kept messages, and the reply to continue."""
        system = [text for text in (self.request.instructions, self.conversation.system_prompt) if text]
        messages = [ChatMessage("system", "\n\n".join(system))] if system else []
        for message in self.history:
            for chat_message in chat_messages_of(message):
                append_message(messages, chat_message)
        if self.continues is not None:
            messages.append(ChatMessage("assistant", self.continues.content))
        return tuple(messages)


def _beginning(question: str) -> str:
    """Returns what pages can show until the message is stored. They ask for it every few seconds."""
    return question if len(question) <= SHOWN_CHARACTERS else f"{question[:SHOWN_CHARACTERS]}…"
