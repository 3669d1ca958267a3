"""Owns what can be done with conversations: begin, answer, regenerate, continue, undo, list, delete.

Knows no HTTP and nothing of how a model runs; turn.py has the one path that every reply takes.
"""

from collections.abc import AsyncGenerator, Sequence

from app.core.config import Settings
from app.core.errors import ConversationFull, InvalidRequest
from app.models.chat.store import ConversationStore
from app.models.chat.turn import Turn, TurnEvent, TurnRunner
from app.models.conversation import Conversation, Message, now
from app.models.model_manager import ModelManager
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    ConversationListResponse,
    ConversationMessage,
    ConversationResponse,
    ConversationSummary,
    DeletedResponse,
    NewChatRequest,
    NewChatResponse,
    RegenerateRequest,
    TranscriptMessage,
    UndoResponse,
)

PREVIEW_CHARACTERS = 80


class ChatModelManager:
    """Conversations with whichever model is asked. One turn at a time for each conversation."""

    def __init__(self, settings: Settings, store: ConversationStore, models: ModelManager) -> None:
        self._settings = settings
        self._store = store
        self._models = models
        self._turns = TurnRunner(settings, store, models)

    # Turns

    def chat(self, request: ChatRequest) -> AsyncGenerator[TurnEvent, None]:
        """Answers a message. A new conversation is kept once it has a turn.

        Raises:
            ConversationNotFound: and what TurnRunner.answer raises.
        """

        def plan(conversation: Conversation) -> Turn:
            system_prompt = request.system_prompt
            return Turn(
                conversation,
                tuple(conversation.messages),
                request,
                request.model_name or conversation.model_name,
                conversation.system_prompt if system_prompt is None else system_prompt,
                asked=Message("user", request.message),
            )

        return self._turns.answer(lambda: self._conversation_for(request), plan)

    def regenerate(self, conversation_id: str, request: RegenerateRequest) -> AsyncGenerator[TurnEvent, None]:
        """Answers the last user message again; the old reply goes once the new one is there."""

        def plan(conversation: Conversation) -> Turn:
            conversation.last_reply()
            return Turn(
                conversation,
                tuple(conversation.messages[:-1]),
                request,
                request.model_name or conversation.model_name,
                conversation.system_prompt,
            )

        return self._turns.answer(lambda: self._store.get(conversation_id), plan)

    def continue_reply(
        self, conversation_id: str, request: ContinueRequest
    ) -> AsyncGenerator[TurnEvent, None]:
        """Extends the last reply; deltas are what is added, the response holds the whole."""

        def plan(conversation: Conversation) -> Turn:
            begun = conversation.last_reply()
            return Turn(
                conversation,
                tuple(conversation.messages[:-1]),
                request,
                request.model_name or conversation.model_name,
                conversation.system_prompt,
                begun=begun,
            )

        return self._turns.answer(lambda: self._store.get(conversation_id), plan)

    def _conversation_for(self, request: ChatRequest) -> Conversation:
        if request.conversation_id is not None:
            return self._store.get(request.conversation_id)
        return Conversation(system_prompt=self._settings.system_prompt)

    # Conversations

    async def new(self, request: NewChatRequest) -> NewChatResponse:
        """A conversation that may go on from a transcript.

        Raises:
            InvalidRequest: the transcript's turns are out of order.
            ConversationFull: it is larger than what is kept.
            ModelNotFound: no model has that name.
        """
        if request.model_name is not None:
            self._models.entry(request.model_name)  # raises where there is none
        conversation = Conversation(
            title=request.title,
            system_prompt=self._settings.system_prompt
            if request.system_prompt is None
            else request.system_prompt,
            model_name=request.model_name,
            messages=_restore(request.messages),
        )
        if conversation.size_bytes > self._settings.max_conversation_bytes:
            raise ConversationFull(
                f"The conversation is larger than {self._settings.max_conversation_bytes:,} bytes.",
                hint="Shorten system_prompt, leave out old turns, or raise LLM_MAX_CONVERSATION_BYTES.",
            )
        self._store.put(conversation)
        return NewChatResponse(
            conversation_id=conversation.id,
            title=conversation.title,
            system_prompt=conversation.system_prompt,
            model_name=conversation.model_name or self._models.current_name,
            message_count=len(conversation.messages),
            created_at=conversation.created_at,
        )

    async def get(self, conversation_id: str) -> ConversationResponse:
        conversation = self._store.get(conversation_id)
        return ConversationResponse(
            conversation_id=conversation.id,
            title=conversation.title,
            system_prompt=conversation.system_prompt,
            model_name=conversation.model_name,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
            message_count=len(conversation.messages),
            messages=[_wire(message) for message in conversation.messages],
        )

    async def list(self, limit: int, offset: int) -> ConversationListResponse:
        page = self._store.page(limit=limit, offset=offset)
        summaries = [_summary(conversation) for conversation in page]
        return ConversationListResponse(
            conversations=summaries, total=len(self._store), limit=limit, offset=offset
        )

    async def delete(self, conversation_id: str) -> DeletedResponse:
        self._store.delete(conversation_id)
        return DeletedResponse(conversation_id=conversation_id)

    async def undo(self, conversation_id: str, turns: int) -> UndoResponse:
        conversation = self._store.get(conversation_id)
        with self._store.turn(conversation):
            removed = conversation.drop_turns(turns)
        return UndoResponse(
            conversation_id=conversation_id,
            removed_messages=removed,
            message_count=len(conversation.messages),
        )


def _restore(transcript: Sequence[TranscriptMessage]) -> "list[Message]":
    for index, message in enumerate(transcript):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            raise InvalidRequest(
                f"messages[{index}].role: expected {expected}, since user and assistant take turns.",
                hint="A transcript begins with the user and ends with the assistant.",
            )
    if len(transcript) % 2:
        raise InvalidRequest(
            "messages: the transcript ends with a user message that has no reply.",
            hint="Leave it out, and send it as the next message.",
        )
    return [
        Message(
            message.role,
            message.content,
            timestamp=message.timestamp or now(),
            model_name=message.model_name,
            finish_reason=message.finish_reason,
        )
        for message in transcript
    ]


def _wire(message: Message) -> ConversationMessage:
    return ConversationMessage(**{name: getattr(message, name) for name in ConversationMessage.model_fields})


def _summary(conversation: Conversation) -> ConversationSummary:
    first = conversation.messages[0].content if conversation.messages else ""
    return ConversationSummary(
        conversation_id=conversation.id,
        title=conversation.title,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        message_count=len(conversation.messages),
        preview=" ".join(first.split())[:PREVIEW_CHARACTERS],
    )
