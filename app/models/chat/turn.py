"""Runs a turn of a conversation: generates the reply and commits it together with the user's message."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationFull
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage
from app.models.chat.generation import ChatGenerator, ReplyEvent, ReplyProgress
from app.models.chat.reply import GeneratedReply
from app.models.chat.store import ConversationStore
from app.models.conversation import Conversation, Message, last_turns, new_id
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    RegenerateRequest,
    StartEvent,
    TurnFields,
)

TurnEvent = ReplyProgress | ChatResponse


@dataclass(frozen=True, slots=True)
class Turn:
    """A request for a reply. `history` is the conversation up to the reply, with the new message.

    The new reply replaces `old_reply`; if `continues` is set, it begins with its text.
    """

    history: Conversation
    request: TurnFields
    model_name: str | None
    old_reply: Message | None = None
    continues: bool = False
    message_id: str = field(default_factory=lambda: new_id("msg"))

    @classmethod
    def for_message(cls, conversation: Conversation, request: ChatRequest) -> "Turn":
        """Returns a turn that answers a new message."""
        if request.system_prompt is not None:
            conversation = conversation.with_system_prompt(request.system_prompt)
        new_message = Message("user", request.message)
        return cls(
            conversation.with_message(new_message), request, request.model_name or conversation.model_name
        )

    @classmethod
    def for_regeneration(cls, conversation: Conversation, request: RegenerateRequest) -> "Turn":
        """Returns a turn that answers the last message again.

        Raises:
            NothingToDo: the conversation has no reply yet.
        """
        return cls(
            conversation.without_last_reply(),
            request,
            request.model_name or conversation.model_name,
            conversation.last_reply(),
        )

    @classmethod
    def for_continuation(cls, conversation: Conversation, request: ContinueRequest) -> "Turn":
        """Returns a turn that continues the last reply.

        Raises:
            NothingToDo: the conversation has no reply yet.
        """
        return cls(
            conversation.without_last_reply(),
            request,
            request.model_name or conversation.model_name,
            conversation.last_reply(),
            continues=True,
        )

    @property
    def size_bytes(self) -> int:
        """The size of the conversation with the new message and without the new reply."""
        return self.history.size_bytes + (0 if self.old_reply is None else self.old_reply.size_bytes)

    @property
    def prefix(self) -> tuple[Message, ...]:
        """The reply to continue, if there is one."""
        return (self.old_reply,) if self.old_reply is not None and self.continues else ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that the reply follows or continues."""
        return self.history.messages + self.prefix


@dataclass(slots=True)
class TurnReply:
    """The reply of a turn, while it is generated."""

    turn: Turn
    omitted_messages: int  # because of the limit on turns; the engine may omit more
    start: StartEvent | None = None
    text: list[str] = field(default_factory=list)
    generated: GeneratedReply | None = None

    def record(self, event: ReplyEvent) -> ReplyProgress | None:
        """Returns the event to report; None for the last event, which the response replaces."""
        match event:
            case GeneratedReply():
                self.generated = event
                return None
            case StartEvent():
                self.start = self._with_ids(event)
                return self.start
            case DeltaEvent():
                self.text.append(event.text)
        return event

    def _with_ids(self, start: StartEvent) -> StartEvent:
        return start.model_copy(
            update={
                "conversation_id": self.turn.history.id,
                "message_id": self.turn.message_id,
                "omitted_messages": self.omitted_messages + start.omitted_messages,
            }
        )

    @property
    def is_worth_keeping(self) -> bool:
        """Whether the model has generated any text, or has ended its reply without text."""
        return bool(self.text) or self.generated is not None

    def conversation(self) -> Conversation:
        """Returns the conversation with the reply at its end, marked as interrupted if it is incomplete."""
        assert self.start is not None, "deltas follow the start"
        prefix = [message.content for message in self.turn.prefix]
        reply = Message(
            "assistant",
            "".join(prefix + self.text),
            id=self.turn.message_id,
            model_name=self.start.model_name,
            model_id=self.start.model_id,
            finish_reason="interrupted" if self.generated is None else self.generated.finish_reason,
        )
        return self.turn.history.with_message(reply)

    def response(self, conversation: Conversation) -> ChatResponse:
        """Returns the response with the complete reply. Send it after `conversation` was stored."""
        assert self.generated is not None and self.start is not None
        reply = conversation.last_reply()
        return ChatResponse(
            response=reply.content,
            thinking=self.generated.thinking,
            conversation_id=conversation.id,
            message_id=reply.id,
            model_name=self.generated.model_name,
            model_id=self.generated.model_id,
            generation_time=self.generated.timings.total_s,
            finish_reason=self.generated.finish_reason,
            message_count=len(conversation.messages),
            usage=self.generated.usage,
            timings=self.generated.timings,
            omitted_messages=self.start.omitted_messages,
            parameters=self.generated.parameters,
            logprobs=self.generated.logprobs,
            timestamp=reply.timestamp,
        )


class TurnRunner:
    """Runs turns. The caller must hold their locks."""

    def __init__(self, settings: Settings, store: ConversationStore, generator: ChatGenerator) -> None:
        self._settings = settings
        self._store = store
        self._generator = generator

    async def run(self, turn: Turn, deadline: Deadline) -> AsyncGenerator[TurnEvent, None]:
        """Yields progress and deltas, commits the turn, and yields the response. A failed turn is not stored.

        If the caller stops early, the text so far is committed and marked as interrupted.

        Raises:
            ConversationFull, ModelNotFound, NoModelChosen, ModelUnavailable, QueueFull, ContextOverflow,
            InvalidRequest, DeadlineExceeded.
        """
        self._check_size(turn)
        kept = last_turns(turn.messages, self._settings.max_conversation_length)
        reply = TurnReply(turn, omitted_messages=len(turn.messages) - len(kept))
        model_input = _model_input(turn, kept)
        generation = self._generator.generate(model_input, turn.request, turn.model_name, deadline)
        try:
            async with aclosing(generation) as events:
                async for event in events:
                    if (reported := reply.record(event)) is not None:
                        yield reported
        except (GeneratorExit, asyncio.CancelledError):
            if reply.is_worth_keeping:
                await _to_its_end(self._store.put(reply.conversation()))
            raise
        conversation = reply.conversation()
        await _to_its_end(self._store.put(conversation))
        yield reply.response(conversation)

    def _check_size(self, turn: Turn) -> None:
        limit = self._settings.max_conversation_bytes
        if turn.size_bytes > limit:
            raise ConversationFull(
                f"The conversation would grow beyond {limit:,} bytes.",
                hint="Start a new one, drop turns with undo, or shorten system_prompt.",
            )


def _model_input(turn: Turn, kept: Sequence[Message]) -> ModelInput:
    """Returns the system prompt and the kept messages."""
    system = (ChatMessage("system", turn.history.system_prompt),) if turn.history.system_prompt else ()
    messages = tuple(ChatMessage(message.role, message.content) for message in kept)
    return ModelInput(system + messages, continue_final_message=turn.continues, think=turn.request.think)


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Awaits the work to its end, even if the caller is cancelled, and raises CancelledError only then.

    During a commit, the turn lock must stay held, and the reply must not be lost.
    """
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancellation = error
    task.result()
    if cancellation is not None:
        raise cancellation
