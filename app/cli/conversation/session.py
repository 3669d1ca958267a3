"""One chat session: the conversation, its turns, the settings, and the models of the server.

The client's transcript is authoritative. The server has a copy, and the autosave writes another to disk.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from app.cli.conversation.answer import Answer, open_answer, show_answer, show_summary
from app.cli.conversation.attachments import attachment, mentioned
from app.cli.conversation.autosave import INTERVAL_S, Autosave
from app.cli.conversation.sampling_settings import SamplingSettings
from app.cli.conversation.server_copy import ServerCopy
from app.cli.conversation.session_index import SessionSummary
from app.cli.conversation.statistics import Statistics
from app.cli.conversation.transcript_file import Transcript
from app.cli.errors import NoAnswerYet, StreamBroken, UsageError
from app.cli.net.client import ChatClient, ServerEvents
from app.cli.net.waiting import switch_with_progress
from app.cli.output.formatting import count, format_size, format_tokens
from app.cli.output.progress_bar import ProgressUpdate
from app.cli.output.terminal import Terminal
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    ModelEntry,
    RegenerateRequest,
    SwitchModelResponse,
    TranscriptMessage,
)

AnswerRequest = ChatRequest | RegenerateRequest | ContinueRequest


class Session:
    """The object that commands act on. Methods raise ClientError and leave a consistent state."""

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
        self.chosen_model: str | None = None  # by /switch; a restarted server may use another one
        self.context_tokens = 0  # after the last answer; 0 if unknown
        self.saved_as: str | None = None
        self.listed: list[SessionSummary] = []  # the numbers of /load and /delete refer to this list
        self.attached: list[str] = []  # texts for the next message
        self.draft = ""  # an unanswered message, which the prompt offers again
        self.last_answer: Answer | None = None
        self._last_model: str | None = None  # the model of the last answer
        self._server_copy = ServerCopy(client, terminal)
        self._server_copy.knows_system_prompt = not system_prompt

    # Turns

    async def send(self, text: str) -> None:
        self.draft = text
        await self._server_copy.settle(self.transcript)
        whole = "\n\n".join(dict.fromkeys([text, *self._mentioned(text), *self.attached]))
        question = TranscriptMessage(role="user", content=whole)
        history = list(self.transcript.messages)
        request = ChatRequest(message=whole, stream=True, **self.settings.values)
        await self._answer(request, [*history, question])
        self._server_copy.knows_system_prompt = True  # only a new message transmits it
        self.attached.clear()

    def _mentioned(self, text: str) -> list[str]:
        """Returns the texts of files mentioned as @path. A file that cannot be attached stays a mention."""
        texts = []
        for path in mentioned(text):
            try:
                texts.append(attachment(path))
            except UsageError as error:
                self.terminal.say(f"{path} is not attached: {error.message}", "yellow")
                continue
            size = f"{format_size(len(texts[-1].encode()))}, {format_tokens(texts[-1])}"
            self.terminal.note(f"Attached {path}: {size}.")
        return texts

    async def retry(self, model_name: str | None = None, **sampling: Any) -> None:  # Any: as /set types them
        """Regenerates the last answer with the current settings, except those given."""
        await self._server_copy.settle(self.transcript)
        self._check_has_answer()
        model = {} if model_name is None else {"model_name": model_name}
        request = RegenerateRequest(stream=True, **model, **(self.settings.values | sampling))
        history = self.transcript.messages[:-1]
        await self._answer(request, history)

    async def continue_(self) -> None:
        """Extends the last answer."""
        await self._server_copy.settle(self.transcript)
        self._check_has_answer()
        request = ContinueRequest(stream=True, **self.settings.values)
        *history, last = self.transcript.messages
        await self._answer(request, history, last.content)

    async def undo(self, turns: int) -> int:
        """Removes the last turns. Returns how many were removed."""
        await self._server_copy.settle(self.transcript)
        self._check_has_answer()
        removed = min(turns, self.transcript.turns)
        await self._server_copy.call(self.transcript, lambda: self.client.undo(self._server_copy.id, removed))
        self.transcript.messages = self.transcript.messages[: -2 * removed]
        self.context_tokens = 0
        self.autosave.write(self.transcript)
        return removed

    async def replace_last_message(self, text: str) -> None:
        """Sends `text` in place of the last message. Unless an answer arrives, nothing changes."""
        await self._server_copy.settle(self.transcript)
        self._check_has_answer()
        old, old_server_copy = self.transcript, self._server_copy
        self.transcript = replace(old, messages=old.messages[:-2])
        self._server_copy = ServerCopy(self.client, self.terminal)
        try:
            await self._server_copy.upload(self.transcript)
            await self.send(text)
        finally:
            if len(self.transcript.messages) < len(old.messages):
                self.transcript, self._server_copy = old, old_server_copy
                self.autosave.write(old)

    # The conversation as a whole

    def begin(self, transcript: Transcript) -> None:
        """Changes to another conversation. The server learns of it with the next message."""
        self.transcript = transcript
        self.context_tokens = 0
        self.saved_as = None
        self._server_copy = ServerCopy(self.client, self.terminal)
        self._server_copy.knows_system_prompt = not transcript.system_prompt

    async def load(self, transcript: Transcript) -> None:
        """Uploads the transcript to the server and changes to it."""
        server_copy = ServerCopy(self.client, self.terminal)
        with self.terminal.bar() as bar:
            bar.show(ProgressUpdate(f"sending {count(transcript.turns, 'turn')} to the server"))
            await server_copy.upload(transcript)
        self.begin(transcript)
        self._server_copy = server_copy
        self.autosave.write(transcript)

    def set_system_prompt(self, text: str) -> None:
        self.transcript.system_prompt = text
        self._server_copy.knows_system_prompt = False
        self.autosave.write(self.transcript)

    async def settled_transcript(self) -> Transcript:
        """Returns the transcript, after an interrupted answer has been taken over from the server."""
        await self._server_copy.settle(self.transcript)
        return self.transcript

    # Models

    async def refresh_models(self) -> None:
        listing = await self.client.models()
        self.models = {entry.name: entry for entry in listing.models}
        self.current_model = listing.current_model

    async def switch(self, name: str) -> SwitchModelResponse:
        response = await switch_with_progress(self.client, self.terminal, name)
        self.current_model = self.chosen_model = self._last_model = response.model_name
        return response

    # How an answer is received

    async def _answer(
        self, request: AnswerRequest, history: list[TranscriptMessage], prefix: str = ""
    ) -> None:
        """Shows the answer and appends it to `history`, also the text of an interrupted answer."""
        answer = self.last_answer = Answer(prefix)
        try:
            async with self._autosaved(history, answer):
                await self._receive(request, answer)
        except (asyncio.CancelledError, StreamBroken):
            if answer.has_grown:
                self._append(history, answer)
                self._server_copy.may_differ = True
            raise
        finally:
            if answer.done is not None:
                self._append(history, answer)
            self.autosave.write(self.transcript)
        self.statistics.add(answer)
        show_summary(self.terminal, answer, self._last_model, self._context_length())
        self._last_model = answer.model_name

    async def _receive(self, request: AnswerRequest, answer: Answer) -> None:
        first, events = await self._server_copy.call(
            self.transcript, lambda: open_answer(self._open_stream(request), self.client, self.terminal)
        )
        async with aclosing(events):
            self._server_copy.conversation_id = first.conversation_id or self._server_copy.conversation_id
            await show_answer(first, events, self.terminal, answer)

    def _open_stream(self, request: AnswerRequest) -> ServerEvents:
        """Sends the request for the conversation's current id, which changes if it is restored."""
        if isinstance(request, ChatRequest):
            fields = self._server_copy.request_fields(self.transcript)
            return self.client.chat(ChatRequest(**request.model_dump(exclude_unset=True), **fields))
        if isinstance(request, RegenerateRequest):
            return self.client.regenerate(self._server_copy.id, request)
        return self.client.continue_reply(self._server_copy.id, request)

    @contextlib.asynccontextmanager
    async def _autosaved(self, history: list[TranscriptMessage], answer: Answer) -> AsyncIterator[None]:
        """Saves the answer while it arrives."""
        saving = asyncio.create_task(self._save_repeatedly(history, answer))
        try:
            yield
        finally:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)

    async def _save_repeatedly(self, history: list[TranscriptMessage], answer: Answer) -> None:
        await answer.admitted.wait()
        while True:
            self.autosave.write(replace(self.transcript, messages=[*history, answer.message]))
            await asyncio.sleep(INTERVAL_S)

    def _append(self, history: list[TranscriptMessage], answer: Answer) -> None:
        self.transcript.messages = [*history, answer.message]
        self.transcript.model_name = answer.model_name
        self.draft = ""
        self.context_tokens = answer.context_tokens

    def _context_length(self) -> int | None:
        model = self.models.get(self.current_model or "")
        return None if model is None else model.context_length

    def _check_has_answer(self) -> None:
        if not self.transcript.messages:
            raise NoAnswerYet

    @property
    def was_cut(self) -> bool:
        """Whether the last answer was interrupted."""
        return self._server_copy.may_differ
