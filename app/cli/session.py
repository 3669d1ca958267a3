"""Owns one conversation as the user sees it: turns, transcript, settings, and the way back after a failure.

The server holds the conversation; the transcript here is its copy, from which it is restored when the server
has lost it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from app.cli.client import ChatClient, ClientError, Events, Refused, StreamBroken
from app.cli.loading import fraction_of, label_of
from app.cli.reply import Reply, opened, show, show_facts
from app.cli.settings import SamplingSettings
from app.cli.terminal import Terminal
from app.cli.transcripts import Transcript
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    ConversationMessage,
    LoadProgress,
    ModelEntry,
    NewChatRequest,
    RegenerateRequest,
    SwitchModelResponse,
    TranscriptMessage,
)

T = TypeVar("T")

SETTLING_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # waits while the server winds up an answer that was stopped


class NothingYet(ClientError):
    def __init__(self) -> None:
        super().__init__("There is no answer in this conversation yet.", "Type a message first.")


class Session:
    """What the commands act on. Methods raise ClientError; what they changed by then is consistent."""

    def __init__(self, client: ChatClient, terminal: Terminal, system_prompt: str = "") -> None:
        self.client = client
        self.terminal = terminal
        self.settings = SamplingSettings()
        self.transcript = Transcript(system_prompt=system_prompt)
        self.models: dict[str, ModelEntry] = {}
        self.current_model: str | None = None
        self.chosen_model: str | None = None  # by the user; the server may have lost it
        self.context_used = 0  # tokens, as the last reply told
        self.saved_as: str | None = None
        self.draft = ""  # a message that was not answered, offered again
        self._answered_by: str | None = None
        self._conversation_id: str | None = None
        self._system_prompt_sent = False
        self._may_differ = False  # from what the server holds, after an answer that was cut

    # Turns

    async def send(self, text: str) -> None:
        self.draft = text
        await self._settle()
        asked = TranscriptMessage(role="user", content=text)
        kept = list(self.transcript.messages)
        await self._answer(lambda: self.client.chat(self._request(text)), [*kept, asked])

    async def retry(self) -> None:
        """Answers the last message again, as the settings are now."""
        await self._settle()
        self._check_begun()
        request = RegenerateRequest(stream=True, **self.settings.values)
        kept = self.transcript.messages[:-1]
        await self._answer(lambda: self.client.regenerate(self._id(), request), kept)

    async def continue_(self) -> None:
        """Extends the last reply."""
        await self._settle()
        self._check_begun()
        request = ContinueRequest(stream=True, **self.settings.values)
        *kept, begun = self.transcript.messages
        await self._answer(lambda: self.client.continue_reply(self._id(), request), kept, begun.content)

    async def undo(self, turns: int) -> int:
        """Drops the last turns, and returns how many there were."""
        await self._settle()
        self._check_begun()
        before = self.transcript.turns
        await self._restored(lambda: self.client.undo(self._id(), min(turns, before)))
        self.transcript.messages = self.transcript.messages[: -2 * min(turns, before)]
        self.context_used = 0  # unknown until the next reply
        return before - self.transcript.turns

    # The conversation as a whole

    def begin(self, transcript: Transcript) -> None:
        """Goes on with another conversation. The server hears of it with the next message."""
        self.transcript = transcript
        self.context_used = 0
        self.saved_as = None
        self._conversation_id = None
        self._system_prompt_sent = self._may_differ = False

    async def load(self, transcript: Transcript) -> None:
        """Goes on with a transcript, once the server has taken it."""
        conversation_id = await self._restore(transcript)
        self.begin(transcript)
        self._conversation_id = conversation_id
        self._system_prompt_sent = True

    def set_system_prompt(self, text: str) -> None:
        self.transcript.system_prompt = text
        self._system_prompt_sent = False

    async def settled_transcript(self) -> Transcript:
        await self._settle()
        return self.transcript

    # Models

    async def refresh_models(self) -> None:
        listing = await self.client.models()
        self.models = {entry.name: entry for entry in listing.models}
        self.current_model = listing.current_model

    async def switch(self, name: str) -> SwitchModelResponse:
        with self.terminal.bar() as bar:
            async with aclosing(self.client.switch(name)) as events:
                async for event in events:
                    if isinstance(event, LoadProgress):
                        bar.show(label_of(event), fraction_of(event))
                    if isinstance(event, SwitchModelResponse):
                        self.current_model = self.chosen_model = self._answered_by = event.model_name
                        return event
        raise StreamBroken("The server ended the switch without a word.", "/models shows what is loaded.")

    # How a turn runs

    def _request(self, text: str) -> ChatRequest:
        fields = dict(self.settings.values)
        if not self._system_prompt_sent and (self.transcript.system_prompt or self._conversation_id):
            fields["system_prompt"] = self.transcript.system_prompt
        if self._conversation_id is not None:
            fields["conversation_id"] = self._conversation_id
        return ChatRequest(message=text, stream=True, **fields)

    async def _answer(
        self, open_stream: Callable[[], Events], kept: list[TranscriptMessage], begun: str = ""
    ) -> None:
        """Shows the reply and keeps it after `kept`; one that was cut is kept as far as it came."""
        reply = Reply(begun)
        try:
            await self._receive(open_stream, reply)
        except (asyncio.CancelledError, StreamBroken):
            if reply.has_grown:
                self._keep(kept, reply)
                self._may_differ = True
            raise
        self._keep(kept, reply)
        show_facts(self.terminal, reply, self._answered_by)
        self._answered_by = reply.model_name

    async def _receive(self, open_stream: Callable[[], Events], reply: Reply) -> None:
        first, events = await self._restored(lambda: opened(open_stream(), self.client, self.terminal))
        async with aclosing(events):
            self._conversation_id = first.conversation_id or self._conversation_id
            await show(first, events, self.terminal, reply)

    def _keep(self, kept: list[TranscriptMessage], reply: Reply) -> None:
        self.transcript.messages = [*kept, reply.message]
        self.transcript.model_name = reply.model_name
        self.draft = ""
        self._system_prompt_sent = True
        self.context_used = reply.context_used

    @property
    def was_cut(self) -> bool:
        """Whether the last answer ended before its end."""
        return self._may_differ

    # The way back

    async def _restored(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls; once more after the server lost the conversation, and again while it winds up an answer."""
        has_lost_it = False
        for wait_s in (*SETTLING_S, None):
            try:
                return await call()
            except Refused as error:
                if error.code == "conversation_not_found" and not has_lost_it:
                    has_lost_it = True
                    await self._bring_back()
                elif error.code == "conversation_busy" and wait_s is not None:
                    await asyncio.sleep(wait_s)
                else:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _bring_back(self) -> None:
        self._conversation_id = None
        if self.transcript.messages:
            self._conversation_id = await self._restore(self.transcript)
            turns = self.transcript.turns
            self.terminal.note(f"The server had lost this conversation: restored {count(turns, 'turn')}.")

    async def _restore(self, transcript: Transcript) -> str:
        request = NewChatRequest(
            system_prompt=transcript.system_prompt or None,
            title=transcript.title,
            messages=transcript.messages,
        )
        return (await self.client.new_chat(request)).conversation_id

    async def _settle(self) -> None:
        """After an answer that was cut: takes over what the server kept of it."""
        if not self._may_differ or self._conversation_id is None:
            return
        self._may_differ = False
        for wait_s in SETTLING_S:
            try:
                held = await self.client.conversation(self._conversation_id)
            except ClientError:
                return  # the next request says what is wrong, or restores what is here
            if held.message_count >= len(self.transcript.messages):
                break
            await asyncio.sleep(wait_s)
        self.transcript.messages = [
            _transcribed(message) for message in held.messages if message.role != "system"
        ]

    def _check_begun(self) -> None:
        if not self.transcript.messages:
            raise NothingYet

    def _id(self) -> str:
        """For a request about what is said already. One that the server never saw is restored by its 404."""
        return self._conversation_id or "unknown"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _transcribed(message: ConversationMessage) -> TranscriptMessage:
    fields = message.model_dump(include=set(TranscriptMessage.model_fields))
    return TranscriptMessage.model_validate(fields)
