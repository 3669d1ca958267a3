"""A server that speaks the wire of /api/v1 and answers from a script, for tests of the client.

What a message does is said by its first word: see `Script.answer`.
"""

import asyncio
import contextlib
import itertools
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from app.api.docs import describe
from app.models import schemas as wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODELS = {"builtin": "/srv/builtin/weights", "gpt2": "openai-community/gpt2"}


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, hint: str | None = None) -> None:
        self.status = status
        self.body = {"error": {"code": code, "message": message, "hint": hint}}


class Thinking(BaseModel):
    text: str


class Unheard(BaseModel):
    """An event that no client knows yet."""


class StandIn:
    """The state of the server, which a test reads and changes as it likes."""

    def __init__(self) -> None:
        self.current = "builtin"
        self.conversations: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.note: str | None = None
        self.status = "ok"
        self.omitted = 0
        self.answer: str | None = None  # to whatever is asked, in place of an echo
        self.chunks_per_s = math.inf
        self.tokens = 12  # of a reply
        self.finish_reason = "stop"
        self.has_said_all = False  # whoever is told to go on adds nothing
        self.api_key: str | None = None
        self.loading: wire.LoadProgress | None = None  # while it is set, messages wait
        self.left = threading.Event()  # a client closed its stream early
        self._ids = itertools.count(1)

    def begin(self, messages: list[dict[str, Any]]) -> str:
        conversation_id = f"conv_{next(self._ids)}"
        self.conversations[conversation_id] = messages
        return conversation_id

    def messages(self, conversation_id: str) -> list[dict[str, Any]]:
        if conversation_id not in self.conversations:
            raise Refusal(404, "conversation_not_found", f"There is no conversation {conversation_id}.")
        return self.conversations[conversation_id]

    def chunks(self, asked: str) -> list[str]:
        """An echo, in pieces of three characters; `say X` answers X, and `think X` thinks X before."""
        text = asked.removeprefix("say ") if asked.startswith("say ") else f"You said: {asked}"
        text = text if self.answer is None else self.answer
        return [text[at : at + 3] for at in range(0, len(text), 3)]

    async def turn(self, conversation_id: str, asked: str, begun: str = "") -> AsyncIterator[BaseModel]:
        """`hang` never ends, `fail` breaks off with an error, `drop` ends without a last event."""
        history = self.messages(conversation_id)
        while self.loading is not None:
            await asyncio.sleep(0.01)
        yield Unheard()
        yield wire.StartEvent(
            conversation_id=conversation_id,
            message_id="msg_1",
            model_name=self.current,
            model_id=MODELS[self.current],
            prompt_tokens=len(history) + 1,
            omitted_messages=self.omitted,
        )
        said = begun
        try:
            if asked.startswith("think "):
                yield Thinking(text=asked.removeprefix("think "))
            chunks = [] if begun and self.has_said_all else self.chunks(asked)
            async for chunk in self._paced(chunks):
                said += chunk
                yield wire.DeltaEvent(text=chunk)
            await self._trouble(asked)
        except (asyncio.CancelledError, GeneratorExit):
            self._commit(history, asked, said, "interrupted")
            self.left.set()
            raise
        self._commit(history, asked, said, self.finish_reason)
        yield self._reply(conversation_id, said)

    async def _paced(self, chunks: list[str]) -> AsyncIterator[str]:
        began = time.monotonic()
        for index, chunk in enumerate(chunks):
            early_s = began + index / self.chunks_per_s - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            yield chunk

    async def _trouble(self, asked: str) -> None:
        if asked.startswith("hang"):
            await asyncio.Event().wait()
        if asked.startswith("fail"):
            raise Refusal(503, "worker_died", "The model's process ended.", "Send the message again.")
        if asked.startswith("drop"):
            raise ConnectionResetError

    def _commit(self, history: list[dict[str, Any]], asked: str, said: str, reason: str) -> None:
        if history and history[-1]["role"] == "assistant" and history[-2]["content"] == asked:
            del history[-2:]
        history += [_message("user", asked), _message("assistant", said, self.current, reason)]

    def _reply(self, conversation_id: str, said: str) -> wire.ChatResponse:
        return wire.ChatResponse(
            response=said,
            conversation_id=conversation_id,
            message_id="msg_1",
            model_name=self.current,
            model_id=MODELS[self.current],
            generation_time=0.1,
            finish_reason=self.finish_reason,
            message_count=len(self.conversations[conversation_id]),
            usage=wire.Usage(prompt_tokens=20, completion_tokens=self.tokens, cached_tokens=8),
            timings=wire.Timings(queue_s=0, first_token_s=0.05, total_s=0.1, tokens_per_second=240),
            omitted_messages=self.omitted,
            parameters=wire.Parameters(
                max_tokens=None,
                temperature=0.7,
                top_p=1,
                top_k=0,
                min_p=0,
                repetition_penalty=1,
                presence_penalty=0,
                frequency_penalty=0,
                seed=None,
                stop=[],
            ),
        )

    def health(self) -> wire.HealthResponse:
        model = wire.ModelHealth(name=self.current, status="loaded", model_id=MODELS[self.current])
        return wire.HealthResponse(
            status="loading" if self.loading is not None else self.status,
            timestamp=NOW,
            uptime=1,
            version="0",
            boot_id="boot",
            current_model=self.current,
            model=model,
            loading=[] if self.loading is None else [self.loading],
            note=self.note,
            active_requests=0,
            queued_requests=0,
        )

    def models(self) -> wire.ModelListResponse:
        entries = [self._entry(name, model_id) for name, model_id in MODELS.items()]
        return wire.ModelListResponse(models=entries, current_model=self.current)

    def _entry(self, name: str, model_id: str) -> wire.ModelEntry:
        loading = self.loading if self.loading is not None and self.loading.model_name == name else None
        idle: wire.LoadState = "available" if loading is None else "loading"
        return wire.ModelEntry(
            name=name,
            display_name=name.upper(),
            status="loaded" if name == self.current else idle,
            is_current=name == self.current,
            model_id=model_id,
            sources=[model_id],
            is_on_disk=name == "builtin",
            description=f"The {name} model",
            context_length=1024,
            size_bytes=548_000_000,
            memory_bytes=1_000_000_000,
            progress=loading,
        )

    async def switch(self, name: str) -> AsyncIterator[BaseModel]:
        """`hang` never becomes ready."""
        yield wire.LoadProgress(model_name=name, stage="load", fraction=0.5)
        if name == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        self.current = name
        yield wire.SwitchModelResponse(
            message=f"Successfully switched to {name}", model_name=name, model_id=MODELS[name], load_time=0.2
        )


def _message(role: str, content: str, model: str | None = None, reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "msg",
        "role": role,
        "content": content,
        "timestamp": NOW.isoformat(),
        "model_name": model,
        "model_id": None,
        "finish_reason": reason,
    }


_EVENTS = {
    Thinking: "thinking",
    Unheard: "unheard",
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
            raise Refusal(401, "not_authenticated", "A key is needed.")

    app = FastAPI(dependencies=[Depends(check_key)])
    _add_conversations(app, state)
    _add_models(app, state)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    describe(app)
    return app


def _add_conversations(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat")
    async def chat(body: wire.ChatRequest) -> Response:
        state.requests.append(("chat", body.model_dump(exclude_unset=True)))
        if body.model_name not in (None, *MODELS):
            raise Refusal(404, "model_not_found", f"There is no {body.model_name}.", "Did you mean gpt2?")
        if body.message.startswith("refuse"):
            raise Refusal(429, "queue_full", "The queue is full.")
        conversation_id = body.conversation_id or state.begin([])
        state.messages(conversation_id)
        return _stream(state.turn(conversation_id, body.message))

    @app.post("/api/v1/chat/new")
    async def new(body: wire.NewChatRequest) -> wire.NewChatResponse:
        state.requests.append(("new", body.model_dump(exclude_unset=True)))
        messages = [_message(m.role, m.content, m.model_name, m.finish_reason) for m in body.messages]
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

    @app.post("/api/v1/chat/conversation/{conversation_id}/regenerate")
    async def regenerate(conversation_id: str, body: wire.RegenerateRequest) -> Response:
        state.requests.append(("regenerate", body.model_dump(exclude_unset=True)))
        return _stream(state.turn(conversation_id, state.messages(conversation_id)[-2]["content"]))

    @app.post("/api/v1/chat/conversation/{conversation_id}/continue")
    async def continue_reply(conversation_id: str, body: wire.ContinueRequest) -> Response:
        asked, begun = (message["content"] for message in state.messages(conversation_id)[-2:])
        state.requests.append(("continue", body.model_dump(exclude_unset=True)))
        return _stream(state.turn(conversation_id, asked.replace("hang", "say more of"), begun))


def _add_models(app: FastAPI, state: StandIn) -> None:
    @app.get("/api/v1/health")
    async def health() -> wire.HealthResponse:
        return state.health()

    @app.get("/api/v1/model-info")
    async def model_info(model_name: str) -> wire.ModelInfoResponse:
        return wire.ModelInfoResponse(
            model_name=model_name,
            model_id=MODELS[model_name],
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
        if body.model_name not in (*MODELS, "hang"):
            raise Refusal(404, "model_not_found", f"There is no {body.model_name}.", "Did you mean gpt2?")
        return _stream(state.switch(body.model_name))


@contextlib.contextmanager
def served(state: StandIn, port: int = 0) -> Iterator[str]:
    """The address of a server that runs until the context ends."""
    listening = _listening(port)
    server = uvicorn.Server(uvicorn.Config(build(state), log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _listening(port: int) -> socket.socket:
    """Told to be TCP, as a server makes it for itself: else asyncio lets small writes wait for each other."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    return listening


def main() -> None:
    """Started as the client starts its server. LLM_MODEL_NAME=broken ends it; FORGOTTEN is no model."""
    if os.environ.get("LLM_MODEL_NAME") == "broken":
        sys.exit("Wrong settings. LLM_MODEL_NAME: there is no model named 'broken'.")
    MODELS.pop(os.environ.get("FORGOTTEN", ""), None)
    threading.Thread(target=_exit_on_stdin_close, daemon=True).start()
    uvicorn.run(build(StandIn()), host=os.environ["LLM_HOST"], port=int(os.environ["LLM_PORT"]))


def _exit_on_stdin_close() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
