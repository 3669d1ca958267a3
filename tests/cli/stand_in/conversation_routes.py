"""The routes of the scripted server for conversations and their branches."""

from fastapi import FastAPI

from app.models import schemas as wire
from tests.cli.stand_in.state import Refusal, StandIn, refuse_branches
from tests.cli.stand_in.tree import NOW, StandInTree


def add_conversations(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat/new")
    async def new(body: wire.NewChatRequest) -> wire.NewChatResponse:
        state.requests.append(("new", body.model_dump(exclude_unset=True)))
        tree = StandInTree(body.title, body.system_prompt or "")
        tree.append(body.messages)
        return started(state, tree)

    @app.get("/api/v1/chat/conversation/{conversation_id}")
    async def conversation(conversation_id: str, tree: bool | None = None) -> wire.ConversationResponse:
        if state.is_old and tree is not None:
            raise Refusal(422, "validation_error", "tree: unknown parameter.")
        state.reads += 1
        return shown(state, conversation_id, bool(tree))

    @app.get("/api/v1/chat/conversations")
    async def conversations(limit: int, query: str | None = None) -> wire.ConversationListResponse:
        if state.refuses_list:
            raise Refusal(403, "forbidden", "You may not list conversations.")
        if state.is_old and query is not None:
            raise Refusal(422, "validation_error", "query: unknown parameter.")
        found = [summary(*item) for item in state.conversations.items() if item[1].matches(query or "")]
        found.sort(key=lambda one: one.updated_at, reverse=True)
        return wire.ConversationListResponse(
            conversations=found[:limit], total=len(found), limit=limit, offset=0
        )

    @app.delete("/api/v1/chat/conversations")
    async def delete_all() -> wire.DeletedAllResponse:
        deleted = len(state.conversations)
        state.conversations.clear()
        return wire.DeletedAllResponse(deleted=deleted, kept=0)

    @app.delete("/api/v1/chat/conversation/{conversation_id}")
    async def delete(conversation_id: str) -> wire.DeletedResponse:
        state.tree(conversation_id)
        del state.conversations[conversation_id]
        return wire.DeletedResponse(conversation_id=conversation_id)

    @app.post("/api/v1/chat/conversation/{conversation_id}/undo")
    async def undo(conversation_id: str, body: wire.UndoRequest) -> wire.UndoResponse:
        state.check_turn(conversation_id, body)
        tree = state.tree(conversation_id)
        removed = tree.undo(body.turns)
        return wire.UndoResponse(
            conversation_id=conversation_id,
            removed_messages=removed,
            message_count=len(tree.branch),
            head_id=tree.head_id,
        )


def add_branches(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat/conversation/{conversation_id}/select")
    async def select(conversation_id: str, body: wire.SelectRequest) -> wire.SelectResponse:
        refuse_branches(state)
        state.requests.append(("select", body.model_dump(exclude_unset=True)))
        state.check_turn(conversation_id, body)
        tree = state.tree(conversation_id)
        tree.select(state.message(conversation_id, body.message_id).id)
        return wire.SelectResponse(
            conversation_id=conversation_id, head_id=str(tree.head_id), message_count=len(tree.branch)
        )

    @app.post("/api/v1/chat/conversation/{conversation_id}/fork")
    async def fork(conversation_id: str, body: wire.ForkConversationRequest) -> wire.NewChatResponse:
        refuse_branches(state)
        tree = state.tree(conversation_id)
        copy = StandInTree(tree.title, tree.system_prompt)
        copy.append(tree.branch_of(body.message_id or tree.head_id))
        return started(state, copy)

    @app.patch("/api/v1/chat/conversation/{conversation_id}")
    async def update(conversation_id: str, body: wire.UpdateConversationRequest) -> wire.ConversationResponse:
        if state.is_old:
            raise Refusal(405, "method_not_allowed", "This route has no PATCH.")
        state.tree(conversation_id).title = body.title
        return shown(state, conversation_id, False)


def started(state: StandIn, tree: StandInTree) -> wire.NewChatResponse:
    return wire.NewChatResponse(
        conversation_id=state.begin(tree),
        title=tree.title,
        system_prompt=tree.system_prompt,
        model_name=state.current,
        message_count=len(tree.branch),
        created_at=NOW,
    )


def summary(conversation_id: str, tree: StandInTree) -> wire.ConversationSummary:
    return wire.ConversationSummary(
        conversation_id=conversation_id,
        title=tree.title,
        created_at=NOW,
        updated_at=tree.updated_at,
        message_count=len(tree.branch),
        preview=next((message.content for message in tree.messages.values()), ""),
    )


def shown(state: StandIn, conversation_id: str, whole: bool) -> wire.ConversationResponse:
    """The conversation as the server sends it. An old server knows neither parents nor siblings."""
    tree = state.tree(conversation_id)
    messages = tree.shown(whole)
    if state.is_old:
        old: dict[str, object] = {"parent_id": None, "siblings": [], "parts": [], "position": 1}
        messages = [message.model_copy(update=old) for message in messages]
    held = wire.ConversationResponse(
        conversation_id=conversation_id,
        title=tree.title,
        system_prompt=tree.system_prompt,
        model_name=None,
        created_at=NOW,
        updated_at=NOW,
        head_id=None if state.is_old else tree.head_id,
        message_count=len(tree.branch),
        messages=messages,
    )
    return state.distorted(held)
