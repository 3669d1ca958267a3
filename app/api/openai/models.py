"""The routes /v1/models: the models of this server, as OpenAI's API lists them."""

from typing import Literal

from fastapi import APIRouter

from app.api.body import ParsedRoute
from app.api.dependencies import ServicesDep
from app.api.docs import fails_as
from app.api.error_formats import openai_error
from app.api.openai.wire import SparseModel
from app.api.paths import OPENAI_PREFIX

router = APIRouter(
    prefix=OPENAI_PREFIX, route_class=ParsedRoute, tags=["OpenAI"], responses=fails_as(openai_error)
)

_CREATED = 1_767_225_600  # 2026-01-01; the weights' real age is unknown


class ModelCard(SparseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelCards(SparseModel):
    object: Literal["list"]
    data: list[ModelCard]


@router.get("/models")
async def list_models(services: ServicesDep) -> ModelCards:
    """Lists the names by which requests may choose a model, aliases among them."""
    listed = await services.status.list_models()
    names = [name for entry in listed.models for name in (entry.name, *entry.aliases)]
    return ModelCards(object="list", data=[_card(name) for name in names])


@router.get("/models/{model:path}")
async def get_model(model: str, services: ServicesDep) -> ModelCard:
    """Describes one model, by its name or an alias."""
    services.status.info(model)  # raises if no model has the name
    return _card(model)


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, object="model", created=_CREATED, owned_by="llm-serving")
