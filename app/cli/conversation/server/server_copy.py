"""Keeps the server's copy of a conversation in step with the client's transcript.

The server may lose its copy, or, after an interrupted answer, hold a slightly longer text than was shown.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from app.cli.conversation.server.known_heads import KnownHeads
from app.cli.conversation.server.running_turns import (
    RETRY_DELAYS_S,
    ResultT,
    TurnOnServer,
    left_turn,
    patiently,
    placed,
    running_turns,
    turn_elsewhere,
)
from app.cli.conversation.server.server_messages import (
    adopted,
    contains_last_answer,
    from_server,
    same_messages,
    take_over,
    to_upload,
)
from app.cli.errors import ClientError, Refused
from app.cli.net.client import ChatClient
from app.cli.output.formatting import count
from app.cli.output.terminal import Terminal
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import (
    ConversationResponse,
    NewChatRequest,
    StartEvent,
    UpdateConversationRequest,
)

NO_ROUTE = ("not_found", "method_not_allowed")  # of an older server
LOST = ("conversation_not_found", "message_not_found")


class ServerCopy:
    """The server's copy of one transcript."""

    def __init__(self, client: ChatClient, terminal: Terminal, transcript: Transcript) -> None:
        self.transcript = transcript
        # If none is set, the server's default applies.
        self.knows_system_prompt = not transcript.system_prompt
        self.may_differ = False  # after an interrupted answer
        self.running_turn: TurnOnServer | None = None  # when the conversation was opened
        self._has_unsent_title = False  # the server began the conversation without it
        self.has_branches = False  # whether the server is known to keep branches
        self._heads = KnownHeads()
        self._chosen_id = f"conv_{secrets.token_hex(16)}"  # that the server is to give the conversation
        self.client = client
        self.terminal = terminal

    @property
    def id(self) -> str:
        """The id for requests about existing messages; "unknown" is refused, and `call` uploads."""
        return self.transcript.conversation_id or "unknown"

    @property
    def session_id(self) -> str:
        """The id that leads a load balancer to the server with this conversation, from its first turn on."""
        return self.transcript.conversation_id or self._chosen_id

    def request_fields(self, parent_id: str | None) -> dict[str, Any]:  # Any: as ChatRequest types them
        """Returns the fields that put a message into this conversation, below the message `parent_id`.

        Without a parent, or on an older server, the message follows the server's last one.
        """
        fields: dict[str, Any] = {}
        if self.has_branches and parent_id is not None:
            fields["parent_id"] = self._heads.behind(parent_id)
        if not self.knows_system_prompt:
            fields["system_prompt"] = self.transcript.system_prompt
        if self.transcript.conversation_id is not None:
            fields |= {"conversation_id": self.transcript.conversation_id} | self.head_fields()
        return fields

    def head_fields(self) -> dict[str, Any]:  # Any: as requests type them
        """Returns the field that lets the server refuse a change if another client has changed the head.

        There is none on an older server, or if the server has not named the head.
        """
        tree = self.transcript.tree
        is_local = tree.head_id is not None and tree.messages[tree.head_id].is_local
        if is_local or not self.has_branches:
            return {}
        return {"expected_head_id": self._heads.expected(tree.head_id)}

    def accepts(self, head_id: str | None) -> bool:
        """See KnownHeads."""
        return self._heads.accepts(self.transcript.tree, head_id)

    def began(self, start: StartEvent) -> None:
        """Takes the ids of a turn that the server has begun."""
        self._has_unsent_title |= (
            self.transcript.conversation_id is None and self.transcript.title is not None
        )
        self.transcript.conversation_id = start.conversation_id or self.transcript.conversation_id
        self.has_branches = self.has_branches or start.parent_id is not None

    async def open(self) -> None:
        """Takes over the server's messages if it has this conversation. Otherwise uploads the current branch.

        Sets `running_turn` if a turn runs there. If that is the one of the last answer here, does neither.

        Raises:
            ClientError: the server can do neither.
        """
        running = await running_turns(self.client, self.transcript.conversation_id)
        elsewhere = turn_elsewhere(running, self.transcript)
        if elsewhere is None:
            is_running = bool(running)
            self.running_turn = await left_turn(self.client, self.transcript, self.session_id, is_running)
        if self.running_turn is not None:
            self.has_branches = True
            return
        await self.take_over()
        if elsewhere is not None:
            self.running_turn = placed(elsewhere, self.transcript)

    async def take_over(self) -> None:
        """Takes over the server's messages, or uploads the current branch, when no turn is running.

        Raises:
            ClientError: the server can do neither.
        """
        self.running_turn = None
        if self.transcript.conversation_id is not None:
            try:
                held, theirs = await self._fetch()
            except Refused as error:
                if error.code not in LOST or not self.transcript.tree.messages:
                    raise
            else:
                take_over(self.transcript, held, theirs)
                self.knows_system_prompt = self.transcript.system_prompt in ("", held.system_prompt)
                return
        await self.upload()

    async def upload(self) -> None:
        """Creates a conversation on the server from the current branch."""
        transcript = self.transcript
        request = NewChatRequest(
            system_prompt=transcript.system_prompt,
            title=transcript.title,
            messages=to_upload(transcript.messages),
        )
        started = await self.client.new_chat(request, self.session_id)
        transcript.conversation_id = started.conversation_id
        self.knows_system_prompt = True
        await self.learn_ids()
        if len(transcript.tree.messages) > len(transcript.messages):
            self.terminal.note("Other versions of its messages are in the local file only.")

    async def call(self, request: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Sends a request. Repeats it after restoring a lost conversation, and while the server is still
        ending an interrupted answer, but not while it gives one that another client has asked for."""
        try:
            return await patiently(request, self._is_asked_elsewhere)
        except Refused as error:
            if error.code not in LOST:
                raise
        await self._restore()
        return await patiently(request)

    async def _is_asked_elsewhere(self) -> bool:
        running = await running_turns(self.client, self.transcript.conversation_id)
        return turn_elsewhere(running, self.transcript) is not None

    async def rename(self, title: str) -> None:
        """Changes the title on the server, if it has this conversation and can."""
        if self.transcript.conversation_id is None:
            return
        request = UpdateConversationRequest(title=title)
        try:
            await patiently(lambda: self.client.update(self.id, request))
        except Refused as error:
            if error.code not in (*LOST, *NO_ROUTE):
                raise

    async def send_title(self) -> None:
        """Sends the title of a conversation that the server has just begun, if it has one."""
        if self._has_unsent_title and self.transcript.title is not None:
            self._has_unsent_title = False
            with contextlib.suppress(ClientError):  # the title is in the local file
                await self.rename(self.transcript.title)

    async def settle(self) -> None:
        """After an interrupted answer, takes over what the server has kept of it."""
        if not self.may_differ or self.transcript.conversation_id is None:
            return
        self.may_differ = False
        shown = self.transcript.messages
        for delay_s in RETRY_DELAYS_S:
            try:
                _, theirs = await self._fetch()
            except ClientError:
                return  # the next request reports the problem or restores the conversation
            if contains_last_answer(theirs, shown):
                self.transcript.tree = adopted(self.transcript.tree, theirs)
                return
            await asyncio.sleep(delay_s)
        await self._restore()

    async def adopt(self) -> None:
        """Adds the server's messages to the transcript, and makes the server's head the current one."""
        _, theirs = await self._fetch()
        self.transcript.tree = adopted(self.transcript.tree, theirs)

    async def _fetch(self) -> tuple[ConversationResponse, ConversationTree]:
        """Returns what the server has of this conversation, and its messages as a tree."""
        held = await self.client.conversation(self.id)
        self.has_branches = held.head_id is not None
        theirs = from_server(held)  # without system messages, of which one may be the head
        self._heads.learn(theirs.head_id, held.head_id)
        return held, theirs

    async def learn_ids(self) -> None:
        """Gives the messages of the current branch the ids that they have on the server."""
        try:
            _, theirs = await self._fetch()
        except ClientError:
            return  # the ids are needed for editing and selecting only, which restore the conversation
        tree = self.transcript.tree
        self.transcript.tree = tree.renamed(same_messages(tree.branch, theirs.branch))

    async def _restore(self) -> None:
        self.transcript.conversation_id = None
        if self.transcript.messages:
            turns = count(self.transcript.turns, "turn")
            self.terminal.note(f"The server had lost this conversation. Restored {turns}.")
            await self.upload()
