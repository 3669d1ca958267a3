"""Runs a turn of a conversation: generates the reply and commits it together with the user's message."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import TypeVar

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ContextOverflow, ConversationBusy, ConversationFull, StoreUnavailable
from app.models.chat.generation import ChatGenerator, ReplyProgress
from app.models.conversation import Conversation, Message
from app.models.schemas import ChatResponse, StartEvent
from app.models.storage.store import ConversationStore
from app.models.turns.turn import Turn
from app.models.turns.turn_log import TurnLog
from app.models.turns.turn_reply import TurnReply, to_response

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
            await self._generate_until_stopped(reply, log, deadline)
        except BaseException:
            if reply.is_remembered:
                await _to_its_end(self._forget(turn))
            raise
        message = reply.message()
        conversation = await _to_its_end(self._commit(turn, message))
        return to_response(conversation, message, reply.logprobs)

    async def _generate_until_stopped(self, reply: TurnReply, log: TurnLog, deadline: Deadline) -> None:
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
        generation = self._generator.generate(turn.model_input(), turn.request, turn.model_name, deadline)
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
