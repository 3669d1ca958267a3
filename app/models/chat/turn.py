"""Owns a turn: history, model and reply, committed together. The one path that every chat reply takes."""

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationFull
from app.engine.ipc.messages import ChatMessage, SamplingParams
from app.models.chat.reply import Reply, sampling_for
from app.models.chat.store import ConversationStore
from app.models.conversation import Conversation, Message, last_turns, new_id
from app.models.lifecycle.state import ServedModel
from app.models.model_manager import ModelManager
from app.models.schemas import (
    ChatResponse,
    DeltaEvent,
    LoadProgress,
    StartEvent,
    ThinkingEvent,
    TurnFields,
)

TurnEvent = LoadProgress | StartEvent | ThinkingEvent | DeltaEvent | ChatResponse


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked of a conversation: the messages that lead to the reply, and what the reply replaces.

    `before` are the messages that stay as they are, `asked` the new user message, `begun` a reply to extend.
    """

    conversation: Conversation
    before: Sequence[Message]
    request: TurnFields
    model_name: str | None
    system_prompt: str
    asked: Message | None = None
    begun: Message | None = None

    @property
    def history(self) -> list[Message]:
        return [*self.before, *filter(None, (self.asked, self.begun))]


class TurnRunner:
    """Runs turns against whichever model they ask for."""

    def __init__(self, settings: Settings, store: ConversationStore, models: ModelManager) -> None:
        self._settings = settings
        self._store = store
        self._models = models

    async def answer(
        self, find: Callable[[], Conversation], plan: Callable[[Conversation], Turn]
    ) -> AsyncGenerator[TurnEvent, None]:
        """Lease, generate, commit. A failed turn changes nothing; one left early keeps what was said.

        `plan` reads the conversation that `find` gave once it is held for the turn.

        Raises:
            ConversationBusy, ConversationFull, ModelNotFound, ModelUnavailable, QueueFull, ContextOverflow,
            DeadlineExceeded: the conversation is as it was.
        """
        conversation = find()
        with self._store.turn(conversation):
            turn = plan(conversation)
            self._check_size(turn)
            deadline = Deadline.after(self._settings.request_timeout)
            async with aclosing(self._models.lease(turn.model_name, deadline)) as lease:
                async for leased in lease:
                    if isinstance(leased, ServedModel):
                        break
                    yield leased
                served = leased
                assert isinstance(served, ServedModel), "a lease ends with its model"
                sampling = sampling_for(turn.request, served)
                reply, message_id = Reply(served), new_id("msg")
                try:
                    async with aclosing(
                        self._generate(turn, reply, sampling, message_id, deadline)
                    ) as events:
                        async for event in events:
                            yield event
                except (GeneratorExit, CancelledError):
                    if reply.parts:  # what was said stays, marked as interrupted
                        self._commit(turn, reply, message_id)
                    raise
                self._commit(turn, reply, message_id)
                yield self._response(turn, reply, message_id, sampling)

    def _generate(
        self, turn: Turn, reply: Reply, sampling: SamplingParams, message_id: str, deadline: Deadline
    ) -> AsyncGenerator[StartEvent | ThinkingEvent | DeltaEvent, None]:
        prompt, reply.omitted_messages = self._prompt(turn)
        generation = reply.served.client.generate(
            sampling,
            messages=prompt,
            continue_final=turn.begun is not None,
            think=turn.request.think,
            timeout_s=deadline.remaining_s,
        )
        return reply.grow(generation, conversation_id=turn.conversation.id, message_id=message_id)

    def _prompt(self, turn: Turn) -> tuple[tuple[ChatMessage, ...], int]:
        """The system prompt and the last turns; and how many messages the turn limit left out."""
        kept = last_turns(turn.history, self._settings.max_conversation_length)
        messages = [ChatMessage(message.role, message.content) for message in kept]
        if turn.system_prompt:
            messages.insert(0, ChatMessage("system", turn.system_prompt))
        return tuple(messages), len(turn.history) - len(kept)

    def _check_size(self, turn: Turn) -> None:
        added = [turn.system_prompt, *([turn.asked.content] if turn.asked is not None else [])]
        size = turn.conversation.size_bytes - len(turn.conversation.system_prompt.encode())
        if size + sum(len(text.encode()) for text in added) > self._settings.max_conversation_bytes:
            raise ConversationFull(
                f"The conversation would outgrow {self._settings.max_conversation_bytes:,} bytes.",
                hint="Start a new one, drop turns with undo, or shorten system_prompt.",
            )

    def _commit(self, turn: Turn, reply: Reply, message_id: str) -> None:
        """User message and reply go in together, with what the request changed of the conversation."""
        conversation = turn.conversation
        served = reply.served
        begun = "" if turn.begun is None else turn.begun.content
        answer = Message(
            "assistant",
            begun + reply.text,
            id=message_id,
            model_name=served.profile.name,
            model_id=served.model_id,
            finish_reason=reply.finish_reason,
        )
        conversation.system_prompt = turn.system_prompt
        new = [answer] if turn.asked is None else [turn.asked, answer]
        conversation.commit(new, replacing=len(conversation.messages) - len(turn.before))
        self._store.put(conversation)

    def _response(self, turn: Turn, reply: Reply, message_id: str, sampling: SamplingParams) -> ChatResponse:
        assert reply.finished is not None
        return ChatResponse(
            response=turn.conversation.messages[-1].content,
            thinking=reply.thinking,
            conversation_id=turn.conversation.id,
            message_id=message_id,
            model_name=reply.served.profile.name,
            model_id=reply.served.model_id,
            generation_time=reply.finished.timings.total_s,
            finish_reason=reply.finish_reason,
            message_count=len(turn.conversation.messages),
            usage=reply.usage(),
            timings=reply.timings(),
            omitted_messages=reply.omitted_messages,
            parameters=reply.parameters(sampling),
            timestamp=turn.conversation.messages[-1].timestamp,
        )
