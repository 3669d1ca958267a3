"""Sends the request of a turn, shows the answer, and saves it while it arrives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from app.cli.conversation.answer import Answer, open_answer, show_answer
from app.cli.conversation.asked_turn import AskedTurn
from app.cli.conversation.server_copy import ServerCopy
from app.cli.net.client import ChatClient, ServerEvents
from app.cli.output.terminal import Terminal
from app.cli.transcripts.autosave import INTERVAL_S, Autosave
from app.models.schemas import ChatRequest, EditRequest, RegenerateRequest


class AnswerReceiver:
    def __init__(self, client: ChatClient, terminal: Terminal, autosave: Autosave) -> None:
        self._client = client
        self._terminal = terminal
        self._autosave = autosave

    async def receive(self, server_copy: ServerCopy, asked: AskedTurn, answer: Answer) -> None:
        """Collects the answer in `answer`, which is also valid if this is cancelled."""
        async with self._autosaved(server_copy, asked, answer):
            first, events = await server_copy.call(
                lambda: open_answer(self._open_stream(server_copy, asked), self._client, self._terminal)
            )
            async with aclosing(events):
                server_copy.began(first)
                await show_answer(first, events, self._terminal, answer)

    def _open_stream(self, server_copy: ServerCopy, asked: AskedTurn) -> ServerEvents:
        """Sends the request with the current ids, which change if the conversation is restored."""
        request, tree = asked.request, server_copy.transcript.tree
        match request:
            case ChatRequest():
                fields = server_copy.request_fields(asked.parent_id(tree))
                return self._client.chat(ChatRequest(**request.model_dump(exclude_unset=True), **fields))
            case EditRequest():
                named = request.model_copy(update={"message_id": asked.replaced_id(tree)})
                return self._client.edit(server_copy.id, named)
            case RegenerateRequest():
                if server_copy.has_branches:
                    request = request.model_copy(update={"message_id": asked.replaced_id(tree)})
                return self._client.regenerate(server_copy.id, request)
        return self._client.continue_reply(server_copy.id, request)

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
