"""The routes of the scripted server: the part of /api/v1 that the client uses."""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from app.api.web.docs_page import build_validators
from app.models import schemas as wire
from tests.cli.stand_in.log import StandInLog
from tests.cli.stand_in.state import Refusal, StandIn, StandInTurn, UnknownEvent, unknown_model
from tests.cli.stand_in.tree import NOW, StandInTree
from tests.waiting import until

_EVENTS = {
    wire.ThinkingEvent: "thinking",
    UnknownEvent: "unknown",
    wire.StartEvent: "start",
    wire.DeltaEvent: "delta",
    wire.LoadProgress: "progress",
}


async def _frames(events: AsyncIterator[tuple[int | None, BaseModel]]) -> AsyncIterator[str]:
    yield ": keep-alive\n\n"
    try:
        async for event_id, event in events:
            own_id = "" if event_id is None else f"id: {event_id}\n"
            name = _EVENTS.get(type(event), "done")
            yield f"event: {name}\n{own_id}data: {event.model_dump_json()}\n\n"
    except Refusal as refusal:
        yield f"event: error\ndata: {json.dumps(refusal.body)}\n\n"
    except ConnectionResetError:
        return


async def _without_ids(events: AsyncIterator[BaseModel]) -> AsyncIterator[tuple[int | None, BaseModel]]:
    async for event in events:
        yield None, event


def _stream(events: AsyncIterator[tuple[int | None, BaseModel]]) -> Response:
    return StreamingResponse(_frames(events), media_type="text/event-stream")


def _answer(state: StandIn, turn: StandInTurn, body: wire.TurnFields) -> Response:
    """Begins the turn and follows it. Unless it runs in the background, it ends with the connection."""
    if state.is_old:
        return _stream(_without_ids(state.turn(turn)))
    state.turns[turn.message_id] = turn
    log = state.logs[turn.message_id] = StandInLog(state.turn(turn))
    return _stream(_followed(state, log, 0, stops=True, is_background=body.background))


def _check_fields(state: StandIn, body: wire.TurnFields) -> None:
    """Refuses what an older server does not know, before the request changes anything."""
    if state.is_old and body.background:
        raise Refusal(422, "validation_error", "background: Extra inputs are not permitted.")


async def _followed(
    state: StandIn, log: StandInLog, after: int, stops: bool = False, is_background: bool = False
) -> AsyncIterator[tuple[int | None, BaseModel]]:
    sent = 0
    try:
        async for event_id, event in log.read(after):
            if state.cuts and sent == state.cuts[0]:
                state.cuts.pop(0)
                if state.falls_silent:
                    await asyncio.Event().wait()
                raise ConnectionResetError
            sent += 1
            yield event_id, event
    finally:
        if stops and not (is_background and log.has_begun):
            await log.stop()


def build(state: StandIn) -> FastAPI:
    async def check_key(request: Request) -> None:
        state.sessions += request.headers.getlist("x-session-id")
        given = request.headers.get("authorization", "").encode("latin-1").decode()
        if state.api_key and given != f"Bearer {state.api_key}":
            raise Refusal(401, "not_authenticated", "An API key is required.")

    app = FastAPI(dependencies=[Depends(check_key)])
    _add_turns(app, state)
    _add_running_turns(app, state)
    _add_conversations(app, state)
    _add_branches(app, state)
    _add_models(app, state)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    build_validators(app)
    return app


def _add_turns(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat")
    async def chat(body: wire.ChatRequest) -> Response:
        state.requests.append(("chat", body.model_dump(exclude_unset=True)))
        _check_fields(state, body)
        if body.model_name not in (None, *state.model_ids):
            raise unknown_model(body.model_name)
        assert body.message is not None, "the client sends no `messages`"
        if body.message.startswith("refuse"):
            raise Refusal(429, "queue_full", "The queue is full.")
        conversation_id = body.conversation_id or state.begin(StandInTree())
        tree = state.tree(conversation_id)
        if body.parent_id is not None:
            state.message(conversation_id, body.parent_id)
        parent_id = body.parent_id or tree.head_id
        return _answer(state, StandInTurn(conversation_id, body.message, True, parent_id), body)

    @app.post("/api/v1/chat/conversation/{conversation_id}/regenerate")
    async def regenerate(conversation_id: str, body: wire.RegenerateRequest) -> Response:
        state.requests.append(("regenerate", body.model_dump(exclude_unset=True)))
        _check_fields(state, body)
        return _answer(state, _again(state, conversation_id, body.message_id), body)

    @app.post("/api/v1/chat/conversation/{conversation_id}/continue")
    async def continue_reply(conversation_id: str, body: wire.ContinueRequest) -> Response:
        turn = _again(state, conversation_id, None)
        turn.asked = turn.asked.replace("hang", "say more of")
        turn.prefix = state.tree(conversation_id).texts[-1]
        turn.continued_id = state.tree(conversation_id).head_id
        state.requests.append(("continue", body.model_dump(exclude_unset=True)))
        _check_fields(state, body)
        return _answer(state, turn, body)

    @app.post("/api/v1/chat/conversation/{conversation_id}/edit")
    async def edit(conversation_id: str, body: wire.EditRequest) -> Response:
        refuse_branches(state)
        state.requests.append(("edit", body.model_dump(exclude_unset=True)))
        old = state.message(conversation_id, body.message_id)
        if body.message.startswith("refuse"):
            raise Refusal(429, "queue_full", "The queue is full.")
        return _answer(state, StandInTurn(conversation_id, body.message, True, old.parent_id), body)


def _add_running_turns(app: FastAPI, state: StandIn) -> None:
    @app.get("/api/v1/chat/turns")
    async def running() -> wire.RunningTurnsResponse:
        refuse_branches(state)
        found = ((turn, turn.conversation_id) for turn in running_turns(state))
        turns = [turn.as_running(summary(where, state.tree(where))) for turn, where in found]
        return wire.RunningTurnsResponse(turns=turns)

    @app.get("/api/v1/chat/turns/{message_id}/events")
    async def events(message_id: str, after: int = 0) -> Response:
        log = _log(state, message_id)
        state.requests.append(("events", {"after": after}))
        if isinstance(log.error, ConnectionResetError):
            raise Refusal(404, "turn_not_found", "No turn with this id is running or has just ended.")
        await until(lambda: not state.holds_events)
        return _stream(_followed(state, log, after))

    @app.delete("/api/v1/chat/turns/{message_id}")
    async def stop(message_id: str) -> wire.StopTurnResponse:
        log = _log(state, message_id)
        state.requests.append(("stop", {}))
        was_running = not log.task.done()
        await log.stop()
        return wire.StopTurnResponse(message_id=message_id, was_running=was_running, reply=None)


def running_turns(state: StandIn) -> list[StandInTurn]:
    return [turn for message_id, turn in state.turns.items() if not state.logs[message_id].task.done()]


def _log(state: StandIn, message_id: str) -> StandInLog:
    refuse_branches(state)
    if message_id not in state.logs:
        raise Refusal(404, "turn_not_found", "No turn with this id is running or has just ended.")
    return state.logs[message_id]


def _again(state: StandIn, conversation_id: str, message_id: str | None) -> StandInTurn:
    """A turn that answers the question of a reply again."""
    tree = state.tree(conversation_id)
    reply = tree.branch[-1] if message_id is None else state.message(conversation_id, message_id)
    asked = tree.messages[str(reply.parent_id)]
    return StandInTurn(conversation_id, asked.content, asked_id=asked.id)


def refuse_branches(state: StandIn) -> None:
    if state.is_old:
        raise Refusal(404, "not_found", "There is no such route.")


def _add_conversations(app: FastAPI, state: StandIn) -> None:
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

    @app.delete("/api/v1/chat/conversation/{conversation_id}")
    async def delete(conversation_id: str) -> wire.DeletedResponse:
        state.tree(conversation_id)
        del state.conversations[conversation_id]
        return wire.DeletedResponse(conversation_id=conversation_id)

    @app.post("/api/v1/chat/conversation/{conversation_id}/undo")
    async def undo(conversation_id: str, body: wire.UndoRequest) -> wire.UndoResponse:
        tree = state.tree(conversation_id)
        removed = tree.undo(body.turns)
        return wire.UndoResponse(
            conversation_id=conversation_id,
            removed_messages=removed,
            message_count=len(tree.branch),
            head_id=tree.head_id,
        )


def _add_branches(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat/conversation/{conversation_id}/select")
    async def select(conversation_id: str, body: wire.SelectRequest) -> wire.SelectResponse:
        refuse_branches(state)
        state.requests.append(("select", body.model_dump(exclude_unset=True)))
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


def _add_models(app: FastAPI, state: StandIn) -> None:
    @app.get("/api/v1/health")
    async def health() -> wire.HealthResponse:
        return state.health()

    @app.get("/api/v1/model-info")
    async def model_info(model_name: str) -> wire.ModelInfoResponse:
        return wire.ModelInfoResponse(
            model_name=model_name,
            model_id=state.model_ids[model_name],
            display_name=model_name,
            loaded=True,
            status="loaded",
            device="cpu",
            dtype="float32",
            memory_bytes=400_000_000,
            cache="own",
            cache_reason="its layers cannot be packed",
            context_length=1024,
        )

    @app.post("/api/v1/count")
    async def count(body: wire.CountRequest) -> wire.CountResponse:
        refuse_branches(state)
        state.counting += 1
        while state.counting < state.counts_together:
            await asyncio.sleep(0.01)
        tokens = len((body.prompt or "").split())
        return wire.CountResponse(model_name=state.current, tokens=tokens, context_length=1024)

    @app.get("/api/v1/chat/models")
    async def models() -> wire.ModelListResponse:
        return state.models()

    @app.post("/api/v1/chat/switch-model")
    async def switch(body: wire.SwitchModelRequest) -> Response:
        if body.model_name not in (*state.model_ids, "hang"):
            raise unknown_model(body.model_name)
        return _stream(_without_ids(state.switch(body.model_name)))
