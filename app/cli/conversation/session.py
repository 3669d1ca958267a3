"""Owns one conversation as the user sees it: turns, transcript, settings, and the way back after a failure.

The transcript here is what the conversation is; the server holds another copy of it, and the autosave a third
on disk.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from app.cli.conversation.answer import Answer, opened, show, show_facts
from app.cli.conversation.attachments import attachment, mentioned
from app.cli.conversation.autosave import EVERY_S, Autosave
from app.cli.conversation.reply_settings import SamplingSettings
from app.cli.conversation.server_copy import ServerCopy
from app.cli.conversation.session_index import SessionSummary
from app.cli.conversation.statistics import Statistics
from app.cli.conversation.transcript_file import Transcript
from app.cli.errors import ClientError, StreamBroken
from app.cli.net.client import ChatClient, ServerEvents
from app.cli.output.formatting import count, size_of, tokens_about
from app.cli.output.load_progress import shown_switch
from app.cli.output.terminal import Step, Terminal
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    ModelEntry,
    RegenerateRequest,
    SwitchModelResponse,
    TranscriptMessage,
)


class NothingYet(ClientError):
    def __init__(self) -> None:
        super().__init__("There is no answer in this conversation yet.", "Type a message first.")


class Session:
    """What the commands act on. Methods raise ClientError; what they changed by then is consistent."""

    def __init__(
        self,
        client: ChatClient,
        terminal: Terminal,
        system_prompt: str = "",
        autosave: Autosave | None = None,
        settings: SamplingSettings | None = None,
    ) -> None:
        self.client = client
        self.terminal = terminal
        self.autosave = autosave or Autosave(None)
        self.settings = settings or SamplingSettings()
        self.statistics = Statistics()
        self.transcript = Transcript(system_prompt=system_prompt)
        self.models: dict[str, ModelEntry] = {}
        self.current_model: str | None = None
        self.chosen_model: str | None = None  # by the user; the server may have lost it
        self.context_used = 0  # tokens, as the last reply told
        self.saved_as: str | None = None
        self.listed: list[SessionSummary] = []  # what the numbers of /load and /delete mean
        self.attached: list[str] = []  # texts that go with the next message
        self.draft = ""  # a message that was not answered, offered again
        self.last_reply: Answer | None = None
        self._answered_by: str | None = None
        self._server_copy = ServerCopy(client, terminal)
        self._server_copy.knows_system_prompt = not system_prompt

    # Turns

    async def send(self, text: str) -> None:
        self.draft = text
        await self._server_copy.settle(self.transcript)
        whole = "\n\n".join(dict.fromkeys([text, *self._mentioned(text), *self.attached]))
        asked = TranscriptMessage(role="user", content=whole)
        kept = list(self.transcript.messages)
        await self._answer(lambda: self.client.chat(self._request(whole)), [*kept, asked])
        self._server_copy.knows_system_prompt = True  # a message tells it; to answer again or go on does not
        self.attached.clear()

    def _mentioned(self, text: str) -> list[str]:
        """The files that the message names with @."""
        texts = []
        for path in mentioned(text):
            texts.append(attachment(path))
            size = f"{size_of(len(texts[-1].encode()))}, {tokens_about(texts[-1])}"
            self.terminal.note(f"With {path}: {size}.")
        return texts

    async def retry(self, model_name: str | None = None, **sampling: Any) -> None:  # Any: as /set types them
        """Answers the last message again, as the settings are now but for those given."""
        await self._server_copy.settle(self.transcript)
        self._check_begun()
        named = {} if model_name is None else {"model_name": model_name}
        request = RegenerateRequest(stream=True, **named, **(self.settings.values | sampling))
        kept = self.transcript.messages[:-1]
        await self._answer(lambda: self.client.regenerate(self._server_copy.id, request), kept)

    async def continue_(self) -> None:
        """Extends the last reply."""
        await self._server_copy.settle(self.transcript)
        self._check_begun()
        request = ContinueRequest(stream=True, **self.settings.values)
        *kept, begun = self.transcript.messages
        await self._answer(
            lambda: self.client.continue_reply(self._server_copy.id, request), kept, begun.content
        )

    async def undo(self, turns: int) -> int:
        """Drops the last turns, and returns how many there were."""
        await self._server_copy.settle(self.transcript)
        self._check_begun()
        before = self.transcript.turns
        await self._server_copy.call(
            self.transcript, lambda: self.client.undo(self._server_copy.id, min(turns, before))
        )
        self.transcript.messages = self.transcript.messages[: -2 * min(turns, before)]
        self.context_used = 0  # unknown until the next reply
        self.autosave.write(self.transcript)
        return before - self.transcript.turns

    async def ask_instead(self, text: str) -> None:
        """Has `text` answered in place of the last message; until an answer comes, all stays as it is."""
        await self._server_copy.settle(self.transcript)
        self._check_begun()
        old, old_remote = self.transcript, self._server_copy
        self.transcript = replace(old, messages=old.messages[:-2])
        self._server_copy = ServerCopy(self.client, self.terminal)
        try:
            await self._server_copy.hand_over(self.transcript)
            await self.send(text)
        finally:
            if len(self.transcript.messages) < len(old.messages):
                self.transcript, self._server_copy = old, old_remote
                self.autosave.write(old)

    # The conversation as a whole

    def begin(self, transcript: Transcript) -> None:
        """Goes on with another conversation. The server hears of it with the next message."""
        self.transcript = transcript
        self.context_used = 0
        self.saved_as = None
        self._server_copy = ServerCopy(self.client, self.terminal)
        self._server_copy.knows_system_prompt = not transcript.system_prompt

    async def load(self, transcript: Transcript) -> None:
        """Goes on with a transcript, once the server has taken it."""
        remote = ServerCopy(self.client, self.terminal)
        with self.terminal.bar() as bar:
            bar.show(Step(f"handing {count(transcript.turns, 'turn')} to the server"))
            await remote.hand_over(transcript)
        self.begin(transcript)
        self._server_copy = remote
        self.autosave.write(transcript)

    def set_system_prompt(self, text: str) -> None:
        self.transcript.system_prompt = text
        self._server_copy.knows_system_prompt = False
        self.autosave.write(self.transcript)

    async def settled_transcript(self) -> Transcript:
        await self._server_copy.settle(self.transcript)
        return self.transcript

    # Models

    async def refresh_models(self) -> None:
        listing = await self.client.models()
        self.models = {entry.name: entry for entry in listing.models}
        self.current_model = listing.current_model

    async def switch(self, name: str) -> SwitchModelResponse:
        reply = await shown_switch(self.client, self.terminal, name)
        self.current_model = self.chosen_model = self._answered_by = reply.model_name
        return reply

    # How a turn runs

    def _request(self, text: str) -> ChatRequest:
        fields = self.settings.values | self._server_copy.fields(self.transcript)
        return ChatRequest(message=text, stream=True, **fields)

    async def _answer(
        self, open_stream: Callable[[], ServerEvents], kept: list[TranscriptMessage], begun: str = ""
    ) -> None:
        """Shows the reply and keeps it after `kept`; one that was cut is kept as far as it came."""
        reply = self.last_reply = Answer(begun)
        try:
            async with self._written_meanwhile(kept, reply):
                await self._receive(open_stream, reply)
        except (asyncio.CancelledError, StreamBroken):
            if reply.has_grown:
                self._keep(kept, reply)
                self._server_copy.may_differ = True
            raise
        finally:
            if reply.done is not None:
                self._keep(kept, reply)
            self.autosave.write(self.transcript)
        self.statistics.add(reply)
        show_facts(self.terminal, reply, self._answered_by, self._window())
        self._answered_by = reply.model_name

    async def _receive(self, open_stream: Callable[[], ServerEvents], reply: Answer) -> None:
        first, events = await self._server_copy.call(
            self.transcript, lambda: opened(open_stream(), self.client, self.terminal)
        )
        async with aclosing(events):
            self._server_copy.conversation_id = first.conversation_id or self._server_copy.conversation_id
            await show(first, events, self.terminal, reply)

    @contextlib.asynccontextmanager
    async def _written_meanwhile(self, kept: list[TranscriptMessage], reply: Answer) -> AsyncIterator[None]:
        """Writes what was said so far as soon as the server took the message, and every two seconds then."""

        async def write() -> None:
            await reply.admitted.wait()
            while True:
                self.autosave.write(replace(self.transcript, messages=[*kept, reply.message]))
                await asyncio.sleep(EVERY_S)

        writing = asyncio.create_task(write())
        try:
            yield
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _keep(self, kept: list[TranscriptMessage], reply: Answer) -> None:
        self.transcript.messages = [*kept, reply.message]
        self.transcript.model_name = reply.model_name
        self.draft = ""
        self.context_used = reply.context_used

    def _window(self) -> int | None:
        entry = self.models.get(self.current_model or "")
        return None if entry is None else entry.context_length

    def _check_begun(self) -> None:
        if not self.transcript.messages:
            raise NothingYet

    @property
    def was_cut(self) -> bool:
        """Whether the last answer ended before its end."""
        return self._server_copy.may_differ
