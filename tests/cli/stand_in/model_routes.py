"""The routes of the scripted server about itself and its models."""

import asyncio

from fastapi import FastAPI
from fastapi.responses import Response

from app.models import schemas as wire
from tests.cli.stand_in.events import stream, without_ids
from tests.cli.stand_in.state import StandIn, refuse_branches, unknown_model


def add_models(app: FastAPI, state: StandIn) -> None:
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
        return stream(without_ids(state.switch(body.model_name)))
