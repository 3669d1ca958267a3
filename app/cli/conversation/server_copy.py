"""Keeps the server's copy of a conversation in step with the client's transcript.

The server may lose its copy, or, after an interrupted answer, hold a slightly longer text than was shown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from app.cli.conversation.transcript_file import Transcript
from app.cli.errors import ClientError, Refused
from app.cli.net.client import ChatClient
from app.cli.output.formatting import count
from app.cli.output.terminal import Terminal
from app.models.schemas import ConversationMessage, NewChatRequest, TranscriptMessage

ResultT = TypeVar("ResultT")

RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # while the server ends an interrupted answer


class ServerCopy:
    """The state of one transcript's copy on the server."""

    def __init__(self, client: ChatClient, terminal: Terminal) -> None:
        self.conversation_id: str | None = None
        self.knows_system_prompt = True  # if none is set, the server's default applies
        self.may_differ = False  # after an interrupted answer
        self._client = client
        self._terminal = terminal

    @property
    def id(self) -> str:
        """The id for requests about existing messages. If the server has never seen the conversation, it
        answers 404, and `call` uploads it."""
        return self.conversation_id or "unknown"

    def request_fields(self, transcript: Transcript) -> dict[str, Any]:  # Any: as ChatRequest types them
        """Returns the fields that put a message into this conversation."""
        fields: dict[str, Any] = {}
        if not self.knows_system_prompt:
            fields["system_prompt"] = transcript.system_prompt
        if self.conversation_id is not None:
            fields["conversation_id"] = self.conversation_id
        return fields

    async def upload(self, transcript: Transcript) -> None:
        """Creates a conversation on the server from the transcript."""
        request = NewChatRequest(
            system_prompt=transcript.system_prompt,
            title=transcript.title,
            messages=transcript.messages,
        )
        self.conversation_id = (await self._client.new_chat(request)).conversation_id
        self.knows_system_prompt = True

    async def call(self, transcript: Transcript, request: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Sends a request. Repeats it after restoring a lost conversation, and while the server is still
        ending an interrupted answer."""
        was_restored = False
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                return await request()
            except Refused as error:
                if error.code == "conversation_not_found" and not was_restored:
                    was_restored = True
                    await self._restore(transcript)
                elif error.code == "conversation_busy" and delay_s is not None:
                    await asyncio.sleep(delay_s)
                else:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def settle(self, transcript: Transcript) -> None:
        """After an interrupted answer, replaces the transcript's messages by those the server has kept."""
        if not self.may_differ or self.conversation_id is None:
            return
        self.may_differ = False
        for delay_s in RETRY_DELAYS_S:
            try:
                held = await self._client.conversation(self.conversation_id)
            except ClientError:
                return  # the next request reports the problem or restores the conversation
            if contains_last_answer(held.messages, transcript.messages):
                break
            await asyncio.sleep(delay_s)
        transcript.messages = [
            _to_transcript(message) for message in held.messages if message.role != "system"
        ]

    async def _restore(self, transcript: Transcript) -> None:
        self.conversation_id = None
        if transcript.messages:
            await self.upload(transcript)
            turns = count(transcript.turns, "turn")
            self._terminal.note(f"The server had lost this conversation. Restored {turns}.")


def contains_last_answer(held: Sequence[ConversationMessage], shown: Sequence[TranscriptMessage]) -> bool:
    """Returns whether the server's messages `held` include the answer that was shown last.

    Until the server has ended an interrupted answer, they may end with an older one.
    """
    return len(held) >= len(shown) and held[-1].content.startswith(shown[-1].content.rstrip())


def _to_transcript(message: ConversationMessage) -> TranscriptMessage:
    fields = message.model_dump(include=set(TranscriptMessage.model_fields))
    return TranscriptMessage.model_validate(fields)
