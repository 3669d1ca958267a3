"""The reply of a turn: collected while it is generated, then a message, then a response."""

from dataclasses import dataclass, field

from app.models.chat.generation import ReplyEvent, ReplyProgress
from app.models.chat.reply import GeneratedReply, PartCollector
from app.models.conversation import Conversation, Message, ReplyFacts
from app.models.schemas import (
    ChatResponse,
    DeltaEvent,
    LoadProgress,
    LogprobEntry,
    MessagePart,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ToolCallEvent,
    ToolCallPart,
)
from app.models.turns.turn import Turn


@dataclass(slots=True)
class TurnReply:
    """The reply of a turn, while it is generated."""

    turn: Turn
    message_id: str
    echo: str | None = None  # see ReplyFacts
    start: StartEvent | None = None
    loading: LoadProgress | None = None  # the newest progress of its model
    is_remembered: bool = False  # whether the store has it, in case this process dies
    generated: GeneratedReply | None = None
    _written: PartCollector = field(default_factory=PartCollector)

    def record(self, event: ReplyEvent) -> ReplyProgress | None:
        """Returns the event to report; None for the last event, which the response replaces."""
        match event:
            case GeneratedReply():
                self.generated = event
                return None
            case LoadProgress():
                self.loading = event
            case StartEvent():
                self.start = self._with_ids(event)
                return self.start
            case DeltaEvent() | ThinkingEvent() | ToolCallEvent():
                self._written.add(event)
        return event

    def _with_ids(self, start: StartEvent) -> StartEvent:
        return start.model_copy(
            update={
                "conversation_id": self.turn.conversation.id,
                "message_id": self.message_id,
                "parent_id": self.turn.parent.id,
                "omitted_messages": self.turn.omitted_messages + start.omitted_messages,
            }
        )

    @property
    def is_worth_keeping(self) -> bool:
        """Whether the model has generated any text, or has ended its reply without text."""
        return bool(self._written) or self.generated is not None

    @property
    def logprobs(self) -> list[LogprobEntry] | None:
        return None if self.generated is None else self.generated.logprobs

    def message(self) -> Message:
        """Returns the reply, marked as interrupted if it is incomplete."""
        return Message("assistant", self._parts(), id=self.message_id, reply=self._facts()).below(
            self.turn.parent
        )

    def _parts(self) -> tuple[MessagePart, ...]:
        begun = () if self.turn.continues is None else self.turn.continues.parts
        written = self._written.parts()
        if begun and written and isinstance(last := begun[-1], TextPart) and isinstance(written[0], TextPart):
            return (*begun[:-1], TextPart(text=last.text + written[0].text), *written[1:])
        return (*begun, *written)

    def _facts(self) -> ReplyFacts:
        if self.start is None:
            assert self.loading is not None, "a turn begins with its model's progress, or with its start"
            return ReplyFacts(self.loading.model_name, "", "interrupted", echo=self.echo)
        generated = self.generated
        return ReplyFacts(
            model_name=self.start.model_name,
            model_id=self.start.model_id,
            finish_reason="interrupted" if generated is None else generated.finish_reason,
            usage=None if generated is None else generated.usage,
            timings=None if generated is None else generated.timings,
            parameters=self.start.parameters if generated is None else generated.parameters,
            omitted_messages=self.start.omitted_messages,
            echo=self.echo,
        )


def to_response(
    conversation: Conversation, reply: Message, logprobs: list[LogprobEntry] | None = None
) -> ChatResponse:
    """Returns the response to the turn of a stored reply. Send it after the reply was committed.

    Log-probabilities are not stored, so only the first response has them.
    """
    facts = reply.reply
    assert facts is not None and facts.finish_reason
    assert facts.model_name is not None and facts.model_id is not None
    return ChatResponse(
        response=reply.content,
        thinking=reply.thinking,
        tool_calls=[part for part in reply.parts if isinstance(part, ToolCallPart)] or None,
        conversation_id=conversation.id,
        message_id=reply.id,
        parent_id=reply.parent_id,
        model_name=facts.model_name,
        model_id=facts.model_id,
        generation_time=None if facts.timings is None else facts.timings.total_s,
        finish_reason=facts.finish_reason,
        message_count=reply.depth,
        usage=facts.usage,
        timings=facts.timings,
        omitted_messages=facts.omitted_messages,
        parameters=facts.parameters,
        logprobs=logprobs,
        timestamp=reply.timestamp,
    )
