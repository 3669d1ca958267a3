"""Builds the turn of a request: the end of the branch that its reply follows, and the new messages."""

from collections.abc import Sequence

from app.core.config import Settings
from app.core.errors import InvalidRequest, NothingToDo
from app.models.chat.finder import ConversationFinder
from app.models.chat.transcript import check_messages
from app.models.conversation import Conversation, Message, chained
from app.models.schemas import ChatRequest, ContinueRequest, EditRequest, RegenerateRequest, TurnFields
from app.models.storage.store import ConversationStore
from app.models.turns.turn import Turn


class TurnPlanner:
    """Builds turns. The caller must hold the locks of their conversations."""

    def __init__(self, settings: Settings, store: ConversationStore, finder: ConversationFinder) -> None:
        self._settings = settings
        self._store = store
        self._finder = finder

    async def turn_for(
        self,
        conversation: Conversation,
        parent_id: str | None,
        added: Sequence[Message],
        request: ChatRequest | EditRequest,
    ) -> Turn:
        """Returns a turn that answers the new messages, which are added below `parent_id`."""
        asked = sum(message.role == "user" for message in added)
        least = 1 if added and added[0].role == "tool" else 0  # the turn with the calls of the results
        before = await self._history(conversation, parent_id, request, asked, least)
        parent = before[-1] if before else await self._finder.message(conversation, parent_id)
        new = chained(added, parent)
        check_messages((*before, *new))
        model_name = request.model_name or conversation.model_name
        return Turn(conversation, request, model_name, (*before, *new), new_messages=new)

    async def turn_for_reply(
        self, conversation: Conversation, reply: Message, request: RegenerateRequest | ContinueRequest
    ) -> Turn:
        """Returns a turn that answers the message before `reply`."""
        history = await self._history(conversation, reply.parent_id, request)
        if not history:
            raise NothingToDo("The reply begins the conversation: there is no message that it answers.")
        return Turn(conversation, request, request.model_name or conversation.model_name, history)

    async def _history(
        self,
        conversation: Conversation,
        leaf_id: str | None,
        request: TurnFields,
        new_turns: int = 0,
        least: int = 0,
    ) -> tuple[Message, ...]:
        """Returns the end of the branch with this leaf; all of it if the request disables truncation.

        The end has as many turns as LLM_MAX_CONVERSATION_LENGTH leaves beside the new ones, at least `least`.
        """
        turns = max(least, self._settings.max_conversation_length - new_turns)
        is_whole = request.truncation == "disabled"
        return await self._store.branch(conversation, leaf_id, None if is_whole else turns)

    async def reply(self, conversation: Conversation, message_id: str | None) -> Message:
        """Returns a reply; the last one of the current branch if `message_id` is None.

        Raises:
            NothingToDo: the conversation has no reply yet.
            InvalidRequest: the message is not a reply.
        """
        message = await self._finder.message(conversation, message_id or conversation.head_id)
        if message is not None and message.role == "assistant":
            return message
        if message_id is not None:
            raise InvalidRequest("message_id: the message is not a reply.")
        raise NothingToDo("The conversation has no reply yet.", hint="Send a message first.")
