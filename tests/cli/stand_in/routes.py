"""The routes of the scripted server: the part of /api/v1 that the client uses."""

import json
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from app.api.docs import describe
from app.models import schemas as wire
from tests.cli.stand_in.state import (
    NOW,
    Refusal,
    StandIn,
    UnknownEvent,
    message_json,
    unknown_model,
)

_EVENTS = {
    wire.ThinkingEvent: "thinking",
    UnknownEvent: "unknown",
    wire.StartEvent: "start",
    wire.DeltaEvent: "delta",
    wire.LoadProgress: "progress",
}


async def _frames(events: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    yield ": keep-alive\n\n"
    try:
        async for event in events:
            yield f"event: {_EVENTS.get(type(event), 'done')}\ndata: {event.model_dump_json()}\n\n"
    except Refusal as refusal:
        yield f"event: error\ndata: {json.dumps(refusal.body)}\n\n"
    except ConnectionResetError:
        return


def _stream(events: AsyncIterator[BaseModel]) -> Response:
    return StreamingResponse(_frames(events), media_type="text/event-stream")


def build(state: StandIn) -> FastAPI:
    async def check_key(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1").decode()
        if state.api_key and given != f"Bearer {state.api_key}":
            raise Refusal(401, "not_authenticated", "An API key is required.")

    app = FastAPI(dependencies=[Depends(check_key)])
    _add_turns(app, state)
    _add_conversations(app, state)
    _add_models(app, state)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    describe(app)
    return app


def _add_turns(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat")
    async def chat(body: wire.ChatRequest) -> Response:
        state.requests.append(("chat", body.model_dump(exclude_unset=True)))
        if body.model_name not in (None, *state.model_ids):
            raise unknown_model(body.model_name)
        if body.message.startswith("refuse"):
            raise Refusal(429, "queue_full", "The queue is full.")
        conversation_id = body.conversation_id or state.begin([])
        state.messages(conversation_id)
        return _stream(state.turn(conversation_id, body.message))

    @app.post("/api/v1/chat/conversation/{conversation_id}/regenerate")
    async def regenerate(conversation_id: str, body: wire.RegenerateRequest) -> Response:
        state.requests.append(("regenerate", body.model_dump(exclude_unset=True)))
        return _stream(state.turn(conversation_id, state.messages(conversation_id)[-2]["content"]))

    @app.post("/api/v1/chat/conversation/{conversation_id}/continue")
    async def continue_reply(conversation_id: str, body: wire.ContinueRequest) -> Response:
        message, prefix = (entry["content"] for entry in state.messages(conversation_id)[-2:])
        state.requests.append(("continue", body.model_dump(exclude_unset=True)))
        return _stream(state.turn(conversation_id, message.replace("hang", "say more of"), prefix))


def _add_conversations(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat/new")
    async def new(body: wire.NewChatRequest) -> wire.NewChatResponse:
        state.requests.append(("new", body.model_dump(exclude_unset=True)))
        messages = [message_json(m.role, m.content, m.model_name, m.finish_reason) for m in body.messages]
        return wire.NewChatResponse(
            conversation_id=state.begin(messages),
            title=body.title,
            system_prompt=body.system_prompt or "",
            model_name=state.current,
            message_count=len(messages),
            created_at=NOW,
        )

    @app.get("/api/v1/chat/conversation/{conversation_id}")
    async def conversation(conversation_id: str) -> wire.ConversationResponse:
        messages = state.messages(conversation_id)
        return wire.ConversationResponse(
            conversation_id=conversation_id,
            title=None,
            system_prompt="",
            model_name=None,
            created_at=NOW,
            updated_at=NOW,
            message_count=len(messages),
            messages=[wire.ConversationMessage.model_validate(message) for message in messages],
        )

    @app.delete("/api/v1/chat/conversation/{conversation_id}")
    async def delete(conversation_id: str) -> wire.DeletedResponse:
        state.messages(conversation_id)
        del state.conversations[conversation_id]
        return wire.DeletedResponse(conversation_id=conversation_id)

    @app.post("/api/v1/chat/conversation/{conversation_id}/undo")
    async def undo(conversation_id: str, body: wire.UndoRequest) -> wire.UndoResponse:
        messages = state.messages(conversation_id)
        removed = len(messages[-2 * body.turns :])
        del messages[-2 * body.turns :]
        return wire.UndoResponse(
            conversation_id=conversation_id, removed_messages=removed, message_count=len(messages)
        )


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
            context_length=1024,
        )

    @app.get("/api/v1/chat/models")
    async def models() -> wire.ModelListResponse:
        return state.models()

    @app.post("/api/v1/chat/switch-model")
    async def switch(body: wire.SwitchModelRequest) -> Response:
        if body.model_name not in (*state.model_ids, "hang"):
            raise unknown_model(body.model_name)
        return _stream(state.switch(body.model_name))
