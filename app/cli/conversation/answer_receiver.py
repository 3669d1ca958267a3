"""Sends the request of a turn, shows the answer, and saves it while it arrives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from app.cli.conversation.answer import Answer, open_answer, show_answer
from app.cli.conversation.asked_turn import AnswerRequest, AskedTurn
from app.cli.conversation.server.running_turns import TurnOnServer
from app.cli.conversation.server.server_copy import ServerCopy
from app.cli.errors import ClientError, Refused
from app.cli.input.interrupts import CTRL_C
from app.cli.net.client import Action, ChatClient
from app.cli.net.event_stream import ServerEvents, StreamPosition
from app.cli.net.turn_stream import TurnEvents, unbroken
from app.cli.output.terminal import Terminal
from app.cli.transcripts.autosave import INTERVAL_S, Autosave
from app.models.schemas import ChatRequest, ContinueRequest, EditRequest, RegenerateRequest, StartEvent

STOP_TIMEOUT_S = 5.0
ACTIONS: Mapping[type[AnswerRequest], Action] = {
    RegenerateRequest: "regenerate",
    EditRequest: "edit",
    ContinueRequest: "continue",
}


class AnswerReceiver:
    def __init__(self, client: ChatClient, terminal: Terminal, autosave: Autosave) -> None:
        self._client = client
        self._terminal = terminal
        self._autosave = autosave
        self._has_background = True  # until the server refuses it

    async def receive(self, server_copy: ServerCopy, asked: AskedTurn, answer: Answer) -> None:
        """Collects the answer in `answer`, which is also valid if this is cancelled. That stops the turn."""
        async with self._autosaved(server_copy, asked, answer), self._stopped_if_left(answer):
            first, events = await server_copy.call(lambda: self._begin(server_copy, asked))
            async with aclosing(events):
                server_copy.began(first)
                await show_answer(first, events, self._terminal, answer)

    async def follow(self, turn: TurnOnServer, session_id: str, answer: Answer) -> None:
        """Shows the answer of a turn that runs on the server, from its beginning to its end.

        Ctrl-C stops the turn. If the client ends, that of another client goes on.

        Raises:
            Refused: the server has no such turn.
        """
        followed = (turn.message_id, session_id)
        async with self._stopped_if_left(answer, turn.is_own, followed):
            running = self._running(turn.message_id, session_id)
            first, events = await open_answer(running, self._client, self._terminal)
            async with aclosing(events):
                await show_answer(first, events, self._terminal, answer)

    async def read_to_end(self, message_id: str, session_id: str) -> None:
        """Returns when a turn that runs on the server has ended, in whatever way, or cannot be read."""
        with contextlib.suppress(ClientError):
            async with aclosing(self._running(message_id, session_id)) as events:
                async for _ in events:
                    pass

    def _running(self, message_id: str, session_id: str) -> TurnEvents:
        """Returns the events of a turn that runs on the server, from its beginning on."""

        def begin(position: StreamPosition) -> ServerEvents:
            position.message_id, position.session_id = message_id, session_id
            return self._client.turn_events(position)

        return unbroken(self._client, begin)

    async def _begin(self, server_copy: ServerCopy, asked: AskedTurn) -> tuple[StartEvent, TurnEvents]:
        """Begins a turn that outlives its connection. An older server has only those that do not."""
        if self._has_background:
            try:
                return await self._open(server_copy, asked, {"background": True})
            except Refused as error:
                if error.code != "validation_error":
                    raise
        opened = await self._open(server_copy, asked, {})
        self._has_background = False
        return opened

    async def _open(
        self, server_copy: ServerCopy, asked: AskedTurn, fields: Mapping[str, bool]
    ) -> tuple[StartEvent, TurnEvents]:
        def begin(position: StreamPosition) -> ServerEvents:
            return self._stream(server_copy, asked, fields, position)

        return await open_answer(unbroken(self._client, begin), self._client, self._terminal)

    def _stream(
        self,
        server_copy: ServerCopy,
        asked: AskedTurn,
        fields: Mapping[str, Any],  # Any: as the request types them
        position: StreamPosition,
    ) -> ServerEvents:
        """Sends the request with the current ids, which change if the conversation is restored."""
        request, tree = asked.request, server_copy.transcript.tree
        if isinstance(request, ChatRequest):
            own = server_copy.request_fields(asked.parent_id(tree))
            return self._client.chat(
                request.model_copy(update={**fields, **own}), position, server_copy.session_id
            )
        if isinstance(request, EditRequest) or (
            isinstance(request, RegenerateRequest) and server_copy.has_branches
        ):
            fields = {**fields, "message_id": asked.replaced_id(tree)}
        request = request.model_copy(update={**fields, **server_copy.head_fields()})
        return self._client.answer(server_copy.id, ACTIONS[type(request)], request, position)

    @contextlib.asynccontextmanager
    async def _stopped_if_left(
        self, answer: Answer, is_own: bool = True, followed: tuple[str, str] | None = None
    ) -> AsyncIterator[None]:
        """Stops the turn on the server if the body ends before the turn.

        `followed` has the ids of the turn and its session, if they are known before the start event. Until
        that comes, only Ctrl-C stops such a turn.
        """
        try:
            yield
        except Refused:
            raise  # the turn has ended
        except BaseException as error:
            is_ctrl_c, start = CTRL_C in error.args, answer.start
            if self._has_background and (is_own or is_ctrl_c) and answer.done is None:
                if start is not None:
                    answer.is_stored = await self._stop(start.message_id or "", start.conversation_id)
                elif followed is not None and is_ctrl_c:
                    await self._stop(*followed)
            raise

    async def _stop(self, message_id: str, session_id: str | None) -> bool:
        """Stops the turn. Returns whether the server has stored a part of its answer."""
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return (await self._client.stop_turn(message_id, session_id)).reply is not None
        return False

    @contextlib.asynccontextmanager
    async def _autosaved(
        self, server_copy: ServerCopy, asked: AskedTurn, answer: Answer
    ) -> AsyncIterator[None]:
        """Saves the answer while it arrives."""
        saving = asyncio.create_task(self._save_repeatedly(server_copy, asked, answer))
        try:
            yield
        finally:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)

    async def _save_repeatedly(self, server_copy: ServerCopy, asked: AskedTurn, answer: Answer) -> None:
        await answer.admitted.wait()
        while True:
            transcript = server_copy.transcript
            self._autosave.write(replace(transcript, tree=asked.answered(transcript.tree, answer)))
            await asyncio.sleep(INTERVAL_S)
