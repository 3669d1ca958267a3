"""One chat session: the conversation, its turns, the settings, and the models of the server.

The client's transcript is authoritative. The server has a copy, and the autosave writes another to disk.
"""

import asyncio
from typing import Any

from app.cli.conversation.answer import Answer, show_summary
from app.cli.conversation.answer_receiver import AnswerReceiver
from app.cli.conversation.asked_turn import AskedTurn
from app.cli.conversation.attachments import read_mentioned
from app.cli.conversation.known_sessions import KnownSessions
from app.cli.conversation.sampling_settings import SamplingSettings
from app.cli.conversation.server import branches
from app.cli.conversation.server.server_copy import NO_ROUTE, ServerCopy
from app.cli.conversation.statistics import Statistics
from app.cli.errors import NoAnswerYet, Refused, StreamBroken
from app.cli.net.client import ChatClient
from app.cli.net.waiting import switch_with_progress
from app.cli.output.formatting import count
from app.cli.output.progress_bar import ProgressUpdate
from app.cli.output.terminal import Terminal
from app.cli.transcripts.autosave import Autosave
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    EditRequest,
    ModelEntry,
    RegenerateRequest,
    SwitchModelResponse,
    UndoRequest,
)


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
        self.is_hub_reachable: bool | None = None  # None: not known to the server
        self.chosen_model: str | None = None  # by /switch; a restarted server may use another one
        self.context_tokens = 0  # after the last answer; 0 if unknown
        self.saved_as: str | None = None
        self.known_sessions = KnownSessions(client, self.autosave)
        self.attached: list[str] = []  # texts for the next message
        self.draft = ""  # an unanswered message, which the prompt offers again
        self.last_answer: Answer | None = None
        self._last_model: str | None = None  # the model of the last answer
        self.receiver = AnswerReceiver(client, terminal, self.autosave)
        self.server_copy = ServerCopy(client, terminal, self.transcript)

    async def send(self, text: str) -> None:
        await self.ask(await self.with_files(text))

    async def with_files(self, text: str) -> str:
        """Returns the message, followed by the texts of the files that it mentions and of attached files."""
        self.draft = text
        mentioned = await read_mentioned(text, self.client, self.terminal)
        return "\n\n".join(dict.fromkeys([text, *mentioned, *self.attached]))

    async def ask(self, message: str) -> None:
        """Sends a message that has the texts of its files already."""
        await self.server_copy.settle()
        await self._answer(AskedTurn(self._chat_request(message)))
        self.server_copy.knows_system_prompt = True  # only a new message transmits it
        self.attached.clear()

    def _chat_request(self, text: str) -> ChatRequest:
        return ChatRequest(message=text, stream=True, **self.settings.values)

    async def retry(self, model_name: str | None = None, **sampling: Any) -> None:  # Any: as /set types them
        """Answers the last message again, with the current settings except those given."""
        await self.server_copy.settle()
        self._check_has_answer()
        model = {} if model_name is None else {"model_name": model_name}
        request = RegenerateRequest(stream=True, **model, **(self.settings.values | sampling))
        await self._answer(AskedTurn(request, replaced=1))

    async def continue_(self) -> None:
        """Extends the last answer."""
        await self.server_copy.settle()
        self._check_has_answer()
        request = ContinueRequest(stream=True, **self.settings.values)
        await self._answer(AskedTurn(request, replaced=1, prefix=self.transcript.messages[-1].content))

    async def undo(self, turns: int) -> int:
        """Goes back by at most `turns` turns, which stay as a branch. Returns the number of turns."""
        await self.server_copy.settle()
        asked = [at for at, message in enumerate(self.transcript.messages) if message.role == "user"]
        if not asked:
            raise NoAnswerYet
        undone = min(turns, len(asked))
        copy = self.server_copy
        await copy.call(lambda: self.client.undo(copy.id, UndoRequest(turns=undone, **copy.head_fields())))
        tree = self.transcript.tree
        self.transcript.tree = tree.with_head(tree.branch[asked[-undone]].parent_id)
        self.changed_branch()
        return undone

    async def edit(self, text: str) -> None:
        """Sends `text` in place of the last message. That message and its answer stay as another version."""
        await self.server_copy.settle()
        branch = self.transcript.messages
        replaced = next((n for n, m in enumerate(reversed(branch), 1) if m.role == "user"), None)
        if replaced is None:
            raise NoAnswerYet
        self.draft = text
        request = EditRequest(
            message_id=branch[-replaced].id, message=text, stream=True, **self.settings.values
        )
        try:
            await self._answer(AskedTurn(request, replaced))
        except Refused as error:
            if error.code not in NO_ROUTE:
                raise
            await self._send_beside(text, replaced)

    async def _send_beside(self, text: str, replaced: int) -> None:
        """Sends `text` to a server that cannot edit, in a conversation without the replaced messages.

        Unless an answer arrives, nothing changes.
        """
        old, old_tree = self.server_copy, self.transcript.tree
        kept = old_tree.branch[: len(old_tree.branch) - replaced]
        self.transcript.tree = old_tree.with_head(kept[-1].id if kept else None)
        self.server_copy = ServerCopy(self.client, self.terminal, self.transcript)
        old_id, asked = self.transcript.conversation_id, AskedTurn(self._chat_request(text))
        try:
            await self.server_copy.upload()
            await self._answer(asked)
        finally:
            if len(self.transcript.tree.messages) == len(old_tree.messages):
                self.server_copy, self.transcript.tree = old, old_tree
                self.transcript.conversation_id = old_id
                self.autosave.write(self.transcript)

    async def select(self, message_id: str) -> None:
        """Makes the branch of a message the current one, up to the newest message below it."""
        await self.server_copy.settle()
        await branches.select(self.server_copy, message_id)
        self.changed_branch()

    def changed_branch(self) -> None:
        """Saves the conversation, whose current branch is another one now."""
        self.context_tokens = self.transcript.tree.context_tokens
        self.autosave.write(self.transcript)

    def begin(self, transcript: Transcript) -> None:
        """Changes to another conversation. The server learns of it with the next message."""
        self._change_to(ServerCopy(self.client, self.terminal, transcript))

    async def load(self, transcript: Transcript) -> None:
        """Changes to a conversation that the server has, or that is sent to it now."""
        server_copy = ServerCopy(self.client, self.terminal, transcript)
        with self.terminal.bar() as bar:
            bar.show(ProgressUpdate(f"sending {count(transcript.turns, 'turn')} to the server"))
            await server_copy.open()
        self._change_to(server_copy)
        self.autosave.write(transcript)

    async def fork(self) -> None:
        """Copies the current branch into a new conversation and changes to it."""
        await self.server_copy.settle()
        self._check_has_answer()
        self._change_to(await branches.fork(self.server_copy))
        self.autosave.write(self.transcript)

    def _change_to(self, server_copy: ServerCopy) -> None:
        self.transcript = server_copy.transcript
        self.server_copy = server_copy
        self.context_tokens = self.transcript.tree.context_tokens
        self.saved_as = None

    async def rename(self, title: str) -> None:
        """Gives the conversation a title, on the server as well."""
        self.transcript.title = title
        self.autosave.write(self.transcript)
        await self.server_copy.rename(title)

    def set_system_prompt(self, text: str) -> None:
        self.transcript.system_prompt = text
        self.server_copy.knows_system_prompt = False
        self.autosave.write(self.transcript)

    async def settled_transcript(self) -> Transcript:
        """Returns the transcript, after an interrupted answer has been taken over from the server."""
        await self.server_copy.settle()
        return self.transcript

    async def refresh_models(self) -> None:
        listing = await self.client.models()
        self.models = {entry.name: entry for entry in listing.models}
        self.current_model = listing.current_model
        self.is_hub_reachable = listing.is_hub_reachable

    async def switch(self, name: str) -> SwitchModelResponse:
        response = await switch_with_progress(self.client, self.terminal, name)
        self.current_model = self.chosen_model = self._last_model = response.model_name
        return response

    async def _answer(self, asked: AskedTurn) -> None:
        """Shows the answer and adds it to the transcript, also the text of an interrupted answer."""
        answer = self.last_answer = Answer(asked.prefix)
        try:
            await self.receiver.receive(self.server_copy, asked, answer)
        except (asyncio.CancelledError, StreamBroken):
            if answer.is_kept:
                self._keep(asked, answer)
                self.server_copy.may_differ = True
            raise
        finally:
            if answer.done is not None:
                self._keep(asked, answer)
            self.autosave.write(self.transcript)
        await self.server_copy.send_title()
        self.statistics.add(answer)
        show_summary(self.terminal, answer, self._last_model, self.context_length)
        self._last_model = answer.model_name

    def _keep(self, asked: AskedTurn, answer: Answer) -> None:
        self.transcript.tree = asked.answered(self.transcript.tree, answer)
        self.transcript.model_name = answer.model_name
        self.draft = ""
        self.context_tokens = answer.context_tokens

    @property
    def context_length(self) -> int | None:
        """The current model's, in tokens; None if it is unknown."""
        model = self.models.get(self.current_model or "")
        return None if model is None else model.context_length

    def _check_has_answer(self) -> None:
        if not self.transcript.messages or self.transcript.messages[-1].role != "assistant":
            raise NoAnswerYet

    @property
    def was_cut(self) -> bool:
        """Whether the last answer was interrupted."""
        return self.server_copy.may_differ
