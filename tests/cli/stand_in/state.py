"""The state of a scripted server, and the events it answers with. See `StandIn.turn` for the script."""

import asyncio
import itertools
import math
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from app.models import schemas as wire
from tests.cli.stand_in.log import StandInLog
from tests.cli.stand_in.tree import NOW, StandInTree, new_id, said
from tests.waiting import until

MODELS = {"builtin": "/srv/builtin/weights", "gpt2": "openai-community/gpt2"}


class Refusal(Exception):
    def __init__(
        self, status: int, code: str, message: str, hint: str | None = None, head_id: str | None = None
    ) -> None:
        self.status = status
        self.body = {"error": {"code": code, "message": message, "hint": hint, "head_id": head_id}}


def unknown_model(name: str | None) -> Refusal:
    return Refusal(404, "model_not_found", f"No model is named {name}.", "Did you mean gpt2?")


class UnknownEvent(BaseModel):
    """An event of a newer server, which the client ignores."""


@dataclass
class StandInTurn:
    """A question, new or old, to which a reply is added. `parent_id` is the message before a new one."""

    conversation_id: str
    asked: str
    is_new: bool = False
    parent_id: str | None = None
    asked_id: str = field(default_factory=new_id)
    message_id: str = field(default_factory=new_id)
    prefix: str = ""
    continued_id: str | None = None

    def as_running(self, conversation: wire.ConversationSummary) -> wire.RunningTurn:
        return wire.RunningTurn(
            message_id=self.message_id,
            conversation_id=self.conversation_id,
            conversation=conversation,
            parent_id=self.parent_id if self.is_new else self.asked_id,
            question=self.asked if self.is_new else None,
            continues=self.continued_id,
        )


class StandIn:
    """The state of the server. Tests read and change it while the server runs."""

    def __init__(self, models: dict[str, str] = MODELS) -> None:
        self.model_ids = models
        self.current = "builtin"
        self.conversations: dict[str, StandInTree] = {}
        self.is_old = False  # a server without branches
        self.refuses_list = False
        self.logs: dict[str, StandInLog] = {}  # by the ids of the answers
        self.turns: dict[str, StandInTurn] = {}  # the same
        self.cuts: list[int] = []  # events after which the next connections break, while the turns go on
        self.falls_silent = False  # instead of breaking
        self.refuses_events = False  # of turns that are picked up
        self.reads = 0  # requests for conversations so far
        self.holds_events = False  # a client that picks a turn up gets nothing of it meanwhile
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.sessions: list[str] = []  # in the headers of all requests
        self.note: str | None = None
        self.status = "ok"
        self.omitted = 0
        self.answer: str | None = None  # the reply to every message, instead of an echo
        self.chunks_per_s = math.inf
        self.pause_after: int | None = None  # pieces of a reply, which goes on when this is None again
        self.tokens = 12  # of a reply
        self.finish_reason: wire.FinishReason = "stop"
        self.is_complete = False  # a continued reply gets no more text
        self.api_key: str | None = None
        self.loading: wire.LoadProgress | None = None  # messages wait until it is None
        self.counting = 0  # requests for a number of tokens so far
        self.counts_together = 1  # so many of them have to come before one is answered
        self.left = threading.Event()  # set when a client closes its stream early
        self._ids = itertools.count(1)

    def begin(self, tree: StandInTree) -> str:
        conversation_id = f"conv_{next(self._ids)}"
        self.conversations[conversation_id] = tree
        return conversation_id

    def tree(self, conversation_id: str) -> StandInTree:
        if conversation_id not in self.conversations:
            raise Refusal(404, "conversation_not_found", f"No conversation has the id {conversation_id}.")
        return self.conversations[conversation_id]

    def check_turn(self, conversation_id: str, body: wire.HeadFields) -> None:
        """Refuses a change during a turn, and one that expects another head."""
        tree = self.tree(conversation_id)
        of_it = [key for key, turn in self.turns.items() if turn.conversation_id == conversation_id]
        if any(not self.logs[key].task.done() for key in of_it):
            raise Refusal(409, "conversation_busy", "The conversation is in the middle of a turn.")
        if body.expects_head and body.expected_head_id != tree.head_id:
            raise Refusal(409, "head_changed", "The head is not the expected one.", head_id=tree.head_id)

    def message(self, conversation_id: str, message_id: str) -> wire.ConversationMessage:
        messages = self.tree(conversation_id).messages
        if message_id not in messages:
            raise Refusal(404, "message_not_found", "The conversation has no message with this id.")
        return messages[message_id]

    def distorted(self, held: wire.ConversationResponse) -> wire.ConversationResponse:
        """What the server sends for a conversation; a hostile one sends something else."""
        return held

    def chunks(self, message: str) -> list[str]:
        """The reply in pieces of three characters: X to `say X`, otherwise an echo."""
        text = message.removeprefix("say ") if message.startswith("say ") else f"You said: {message}"
        text = text if self.answer is None else self.answer
        return [text[at : at + 3] for at in range(0, len(text), 3)]

    async def turn(self, turn: "StandInTurn") -> AsyncIterator[BaseModel]:
        """The events of a reply.

        To `think X` the reasoning X precedes it. To `hang` it never ends. To `fail` it ends with an error. To
        `drop` the connection is closed.
        """
        tree, message = self.tree(turn.conversation_id), turn.asked
        while self.loading is not None:
            await asyncio.sleep(0.01)
        yield UnknownEvent()
        yield wire.StartEvent(
            conversation_id=turn.conversation_id,
            message_id=turn.message_id,
            parent_id=None if self.is_old else turn.asked_id,
            model_name=self.current,
            model_id=self.model_ids[self.current],
            prompt_tokens=len(tree.branch) + 1,
            omitted_messages=self.omitted,
        )
        text = turn.prefix
        try:
            if message.startswith("think "):
                yield wire.ThinkingEvent(text=message.removeprefix("think "))
            chunks = [] if turn.prefix and self.is_complete else self.chunks(message)
            async for chunk in self._paced(chunks):
                text += chunk
                yield wire.DeltaEvent(text=chunk)
            await self._end(message)
        except (asyncio.CancelledError, GeneratorExit):
            self._commit(tree, turn, text, "interrupted")
            self.left.set()
            raise
        self._commit(tree, turn, text, self.finish_reason)
        yield self._reply(turn, text)

    async def _paced(self, chunks: list[str]) -> AsyncIterator[str]:
        began = time.monotonic()
        for index, chunk in enumerate(chunks):
            if index == self.pause_after:
                await until(lambda: self.pause_after is None, "the test to let the reply go on")
            early_s = began + index / self.chunks_per_s - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            yield chunk

    async def _end(self, message: str) -> None:
        if message.startswith("hang"):
            await asyncio.Event().wait()
        if message.startswith("fail"):
            raise Refusal(503, "worker_died", "The model's process ended.", "Send the message again.")
        if message.startswith("drop"):
            raise ConnectionResetError

    def _commit(self, tree: StandInTree, turn: "StandInTurn", text: str, reason: wire.FinishReason) -> None:
        if turn.is_new:
            tree.add(said("user", turn.asked, turn.parent_id, message_id=turn.asked_id))
        tree.add(said("assistant", text, turn.asked_id, self.current, reason, turn.message_id))
        tree.updated_at += timedelta(seconds=1)

    def stopped_reply(self, turn: StandInTurn) -> wire.ChatResponse | None:
        """The reply of a turn that was stopped; None if it had neither text nor thinking."""
        stored = self.tree(turn.conversation_id).messages.get(turn.message_id)
        if stored is None or not (stored.content or turn.asked.startswith("think ")):
            return None
        return self._reply(turn, stored.content).model_copy(update={"finish_reason": stored.finish_reason})

    def _reply(self, turn: "StandInTurn", text: str) -> wire.ChatResponse:
        return wire.ChatResponse(
            response=text,
            conversation_id=turn.conversation_id,
            message_id=turn.message_id,
            parent_id=None if self.is_old else turn.asked_id,
            model_name=self.current,
            model_id=self.model_ids[self.current],
            generation_time=0.1,
            finish_reason=self.finish_reason,
            message_count=len(self.tree(turn.conversation_id).branch),
            usage=wire.Usage(prompt_tokens=20, completion_tokens=self.tokens, cached_tokens=8),
            timings=wire.Timings(queue_s=0, first_token_s=0.05, total_s=0.1, tokens_per_second=240),
            omitted_messages=self.omitted,
            parameters=wire.Parameters(
                max_tokens=None,
                temperature=0.7,
                top_p=1,
                top_k=0,
                min_p=0,
                repetition_penalty=1,
                presence_penalty=0,
                frequency_penalty=0,
                seed=None,
                stop=[],
            ),
        )

    def health(self) -> wire.HealthResponse:
        model = wire.ModelHealth(name=self.current, status="loaded", model_id=self.model_ids[self.current])
        return wire.HealthResponse(
            status="loading" if self.loading is not None else self.status,
            timestamp=NOW,
            uptime=1,
            version="0",
            boot_id="boot",
            current_model=self.current,
            model=model,
            loading=[] if self.loading is None else [self.loading],
            note=self.note,
            active_requests=0,
            queued_requests=0,
        )

    def models(self) -> wire.ModelListResponse:
        entries = [self._entry(name, model_id) for name, model_id in self.model_ids.items()]
        return wire.ModelListResponse(models=entries, current_model=self.current)

    def _entry(self, name: str, model_id: str) -> wire.ModelEntry:
        loading = self.loading if self.loading is not None and self.loading.model_name == name else None
        idle: wire.LoadState = "available" if loading is None else "loading"
        return wire.ModelEntry(
            name=name,
            display_name=name.upper(),
            status="loaded" if name == self.current else idle,
            is_current=name == self.current,
            model_id=model_id,
            sources=[model_id],
            is_on_disk=name == "builtin",
            description=f"The {name} model",
            context_length=1024,
            size_bytes=548_000_000,
            memory_bytes=1_000_000_000,
            cache="own" if name == self.current else None,
            progress=loading,
        )

    async def switch(self, name: str) -> AsyncIterator[BaseModel]:
        """The events of a switch. The model `hang` never finishes loading."""
        yield wire.LoadProgress(model_name=name, stage="load", fraction=0.5)
        if name == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        self.current = name
        yield wire.SwitchModelResponse(
            message=f"Successfully switched to {name}",
            model_name=name,
            model_id=self.model_ids[name],
            load_time=0.2,
        )


def refuse_branches(state: StandIn) -> None:
    if state.is_old:
        raise Refusal(404, "not_found", "There is no such route.")
