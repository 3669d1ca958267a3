"""The routes /v1/models: the models of this server, as OpenAI's API lists them, or Anthropic's."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query

from app.api.anthropic.models import ModelBody, ModelPage, ModelPageQuery, model_body, model_page
from app.api.body import ParsedRoute
from app.api.dependencies import ServicesDep
from app.api.docs import fails_as
from app.api.error_formats import openai_error
from app.api.openai.wire import SparseModel
from app.api.paths import OPENAI_PREFIX

router = APIRouter(
    prefix=OPENAI_PREFIX, route_class=ParsedRoute, tags=["OpenAI"], responses=fails_as(openai_error)
)

AnthropicVersion = Annotated[
    str | None, Header(description="Which form the answer has: that of Anthropic's API if it is there.")
]
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
async def list_models(
    services: ServicesDep,
    query: Annotated[ModelPageQuery, Query()],
    anthropic_version: AnthropicVersion = None,
) -> ModelCards | ModelPage:
    """Lists the names by which requests may choose a model, aliases among them.

    With the header `anthropic-version` the list has Anthropic's form, in pages."""
    listed = await services.status.list_models()
    names = [(name, entry.display_name) for entry in listed.models for name in (entry.name, *entry.aliases)]
    if anthropic_version is not None:
        return model_page([model_body(name, shown) for name, shown in names], query)
    return ModelCards(object="list", data=[_card(name) for name, _ in names])


@router.get("/models/{model:path}")
async def get_model(
    model: str, services: ServicesDep, anthropic_version: AnthropicVersion = None
) -> ModelCard | ModelBody:
    """Describes one model, by its name or an alias."""
    info = services.status.info(model)  # raises if no model has the name
    return _card(model) if anthropic_version is None else model_body(model, info.display_name)


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, object="model", created=_CREATED, owned_by="llm-serving")
