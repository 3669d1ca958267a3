"""Runs a turn of a conversation: generates the reply and commits it together with the user's message."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ContextOverflow, ConversationBusy, ConversationFull, StoreUnavailable
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage
from app.models.chat.engine_terms import append_message, chat_messages_of, grammar_of, tool_use_of
from app.models.chat.generation import ChatGenerator, ReplyEvent, ReplyProgress
from app.models.chat.reply import GeneratedReply, PartCollector
from app.models.chat.turn_log import TurnLog
from app.models.conversation import Conversation, Message, ReplyFacts
from app.models.schemas import (
    ChatResponse,
    DeltaEvent,
    LoadProgress,
    LogprobEntry,
    MessagePart,
    RunningTurn,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ToolCallEvent,
    ToolCallPart,
    TurnFields,
)
from app.models.storage.store import ConversationStore

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
            parent_id=self.new_messages[0].parent_id if self.new_messages else self.parent.id,
            question=questions[-1] if questions else None,
            continues=None if self.continues is None else self.continues.id,
        )

    @property
    def size_bytes(self) -> int:
        """The size of the conversation with the new messages, and without the new reply."""
        return self.conversation.size_bytes + sum(message.size_bytes for message in self.new_messages)


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


class TurnRunner:
    """Runs turns. The caller must hold their locks."""

    def __init__(self, settings: Settings, store: ConversationStore, generator: ChatGenerator) -> None:
        self._settings = settings
        self._store = store
        self._generator = generator

    async def run(self, turn: Turn, log: TurnLog, deadline: Deadline) -> ChatResponse:
        """Records progress and deltas, commits the turn, and returns the response.

        A failed turn is not stored. Cancelling its task stops the turn: the text so far is committed, marked
        as interrupted, and returned.

        Raises:
            ConversationFull, ModelNotFound, NoModelChosen, ModelUnavailable, QueueFull, ContextOverflow,
            InvalidRequest, DeadlineExceeded, StoreUnavailable.
            CancelledError: the turn was stopped before there was any text.
        """
        self._check_size(turn)
        log.turn = turn.to_wire(log.message_id)
        reply = TurnReply(turn, log.message_id, log.echo)
        try:
            await self._generate_what_is_kept(reply, log, deadline)
        except BaseException:
            if reply.is_remembered:
                await _to_its_end(self._forget(turn))
            raise
        message = reply.message()
        conversation = await _to_its_end(self._commit(turn, message))
        return to_response(conversation, message, reply.logprobs)

    async def _generate_what_is_kept(self, reply: TurnReply, log: TurnLog, deadline: Deadline) -> None:
        """Generates the reply. A cancellation ends it, and is raised only if there is nothing to keep.

        When the server stops, a turn without text is kept as well if its client may have left.
        """
        try:
            await self._generate(reply, log, deadline)
        except asyncio.CancelledError:
            if not (reply.is_worth_keeping or (reply.is_remembered and log.is_shutting_down)):
                raise

    async def _generate(self, reply: TurnReply, log: TurnLog, deadline: Deadline) -> None:
        turn = reply.turn
        generation = self._generator.generate(_model_input(turn), turn.request, turn.model_name, deadline)
        async with aclosing(generation) as events:
            async for event in events:
                if (reported := reply.record(event)) is not None:
                    _check_truncation(turn, reported)
                    if turn.request.background:
                        await self._remember(reply, reported)
                    log.add(reported)

    async def _remember(self, reply: TurnReply, event: ReplyProgress) -> None:
        """Lets the store remember the turn before its client can know of it, and again with its start."""
        if isinstance(event, StartEvent) or not reply.is_remembered:
            await self._store.begin_turn(*_to_store(reply.turn, reply.message()))
            reply.is_remembered = True

    async def _commit(self, turn: Turn, reply: Message) -> Conversation:
        conversation, added = _to_store(turn, reply)
        await self._store.commit(conversation, added)
        return conversation

    async def _forget(self, turn: Turn) -> None:
        try:
            await self._store.forget_turn(turn.conversation)
        except (
            ConversationBusy,
            StoreUnavailable,
        ):  # its next turn, or the next server, finds it and stores it as interrupted
            logger.warning("failed turn not forgotten: conversation=%s", turn.conversation.id)

    def _check_size(self, turn: Turn) -> None:
        limit = self._settings.max_conversation_bytes
        if turn.size_bytes > limit:
            raise ConversationFull(
                f"The conversation would grow beyond {limit:,} bytes.",
                hint="Start a new one, fork its current branch, or shorten system_prompt.",
            )


def _to_store(turn: Turn, reply: Message) -> tuple[Conversation, tuple[Message, ...]]:
    """Returns the conversation with the turn, and the messages that it adds."""
    added = (*turn.new_messages, reply)
    return turn.conversation.with_messages(*added), added


def _model_input(turn: Turn) -> ModelInput:
    """Returns the system prompt and the kept messages."""
    system = [text for text in (turn.request.instructions, turn.conversation.system_prompt) if text]
    messages = [ChatMessage("system", "\n\n".join(system))] if system else []
    for message in turn.history:
        for chat_message in chat_messages_of(message):
            append_message(messages, chat_message)
    if turn.continues is not None:
        messages.append(ChatMessage("assistant", turn.continues.content))
    return ModelInput(
        tuple(messages),
        continue_final_message=turn.continues is not None,
        think=None if turn.request.think == "auto" else turn.request.think,
        wants_thinking=turn.request.think == "auto",
        grammar=grammar_of(turn.request.response_format),
        tool_use=tool_use_of(turn.request),
        thinking_budget=turn.request.thinking_budget,
        scope=turn.conversation.owner,
    )


def _check_truncation(turn: Turn, event: ReplyProgress) -> None:
    if turn.request.truncation == "disabled" and isinstance(event, StartEvent) and event.omitted_messages:
        raise ContextOverflow(
            "The messages do not fit into the model's context window.",
            hint="Send fewer of them, or set truncation to auto.",
        )


async def _to_its_end(work: Coroutine[None, None, T]) -> T:
    """Awaits the work to its end, even if the caller is cancelled.

    During a commit, the turn lock must stay held, and the reply must not be lost.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    return task.result()
