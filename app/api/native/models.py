"""Routes for models: list, describe, switch, load, unload."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import ModelParam, ServicesDep, check_admin
from app.api.docs import STREAMS_LOAD, STREAMS_SWITCH, TAKES_BODY, fails_with
from app.api.native.events import encode
from app.api.paths import NATIVE_PREFIX
from app.api.streaming import respond
from app.models.schemas import (
    LoadModelRequest,
    ModelInfoResponse,
    ModelListResponse,
    SwitchModelRequest,
    SwitchModelResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)

router = APIRouter(prefix=NATIVE_PREFIX, route_class=ParsedRoute, tags=["Models"])
LOADS = TAKES_BODY | fails_with(403, 404, 503)
ADMIN = [Depends(check_admin)]


@router.get("/chat/models")
async def list_models(services: ServicesDep) -> ModelListResponse:
    """Lists the models that the server knows, with their states and sources, and names the current one."""
    return await services.status.list_models()


@router.post(
    "/chat/switch-model",
    response_model=SwitchModelResponse,
    responses=STREAMS_SWITCH | LOADS,
    dependencies=ADMIN,
)
async def switch_model(
    body: Annotated[SwitchModelRequest, examples.SWITCH_MODEL], services: ServicesDep
) -> Response:
    """Makes another model the current one. The old model answers until the new one is ready, and stays
    current if the load fails."""
    return respond(services.models.switch(body.model_name), body.stream, encode, deadline=None)


@router.get("/model-info", responses=fails_with(404, 422))
async def model_info(model: ModelParam, services: ServicesDep) -> ModelInfoResponse:
    """Describes one model: device, precision, size, memory, context window."""
    return services.status.info(model.model_name)


@router.post(
    "/load-model", response_model=SwitchModelResponse, responses=STREAMS_LOAD | LOADS, dependencies=ADMIN
)
async def load_model(
    body: Annotated[LoadModelRequest, examples.LOAD_MODEL], services: ServicesDep
) -> Response:
    """Loads a model without making it the current one. Without a body it loads the current model."""
    return respond(services.models.load(body.model_name), body.stream, encode, deadline=None)


@router.post("/unload-model", responses=TAKES_BODY | fails_with(403, 404, 409), dependencies=ADMIN)
async def unload_model(
    body: Annotated[UnloadModelRequest, examples.UNLOAD_MODEL], services: ServicesDep
) -> UnloadModelResponse:
    """Frees a model's memory, unless the model is in use. The next request for it loads it again."""

    return await services.models.unload(body.model_name)
