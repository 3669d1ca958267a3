"""Owns the server's copy of a conversation: handing it over, and bringing both into agreement."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from app.cli.conversation.transcript_file import Transcript
from app.cli.errors import ClientError, Refused
from app.cli.net.client import ChatClient
from app.cli.output.formatting import count
from app.cli.output.terminal import Terminal
from app.models.schemas import ConversationMessage, NewChatRequest, TranscriptMessage

T = TypeVar("T")

SETTLING_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # waits while the server winds up an answer that was stopped


class ServerCopy:
    """What the server knows of a transcript."""

    def __init__(self, client: ChatClient, terminal: Terminal) -> None:
        self.conversation_id: str | None = None
        self.knows_system_prompt = True  # where nobody sets one, the server's own holds
        self.may_differ = False  # from the transcript, after an answer that was cut
        self._client = client
        self._terminal = terminal

    @property
    def id(self) -> str:
        """For a request about what is said already. One that the server never saw is restored by its 404."""
        return self.conversation_id or "unknown"

    def fields(self, transcript: Transcript) -> dict[str, Any]:  # Any: as ChatRequest types them
        """What a message must say so that it goes into this conversation."""
        fields: dict[str, Any] = {}
        if not self.knows_system_prompt:
            fields["system_prompt"] = transcript.system_prompt
        if self.conversation_id is not None:
            fields["conversation_id"] = self.conversation_id
        return fields

    async def hand_over(self, transcript: Transcript) -> None:
        """Has the server begin a conversation that is the transcript."""
        request = NewChatRequest(
            system_prompt=transcript.system_prompt,
            title=transcript.title,
            messages=transcript.messages,
        )
        self.conversation_id = (await self._client.new_chat(request)).conversation_id
        self.knows_system_prompt = True

    async def call(self, transcript: Transcript, call: Callable[[], Awaitable[T]]) -> T:
        """Calls; once more after the server lost the conversation, and again while it winds up an answer."""
        has_lost_it = False
        for wait_s in (*SETTLING_S, None):
            try:
                return await call()
            except Refused as error:
                if error.code == "conversation_not_found" and not has_lost_it:
                    has_lost_it = True
                    await self._bring_back(transcript)
                elif error.code == "conversation_busy" and wait_s is not None:
                    await asyncio.sleep(wait_s)
                else:
                    raise
        raise AssertionError("the last try returns or raises")

    async def settle(self, transcript: Transcript) -> None:
        """After an answer that was cut: takes over what the server kept of it."""
        if not self.may_differ or self.conversation_id is None:
            return
        self.may_differ = False
        for wait_s in SETTLING_S:
            try:
                held = await self._client.conversation(self.conversation_id)
            except ClientError:
                return  # the next request says what is wrong, or restores what is here
            if _holds(held.messages, transcript.messages):
                break
            await asyncio.sleep(wait_s)
        transcript.messages = [_transcribed(message) for message in held.messages if message.role != "system"]

    async def _bring_back(self, transcript: Transcript) -> None:
        self.conversation_id = None
        if transcript.messages:
            await self.hand_over(transcript)
            turns = count(transcript.turns, "turn")
            self._terminal.note(f"The server had lost this conversation: restored {turns}.")


def _holds(held: Sequence[ConversationMessage], shown: Sequence[TranscriptMessage]) -> bool:
    """Whether what was shown of the last answer is there; while the server winds up, an old one may be."""
    return len(held) >= len(shown) and held[-1].content.startswith(shown[-1].content.rstrip())


def _transcribed(message: ConversationMessage) -> TranscriptMessage:
    fields = message.model_dump(include=set(TranscriptMessage.model_fields))
    return TranscriptMessage.model_validate(fields)
