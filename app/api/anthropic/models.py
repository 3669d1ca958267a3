"""The list of models as Anthropic's API has it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.openai.wire import SparseModel
from app.core.errors import InvalidRequest

_CREATED = datetime(2026, 1, 1, tzinfo=UTC)  # the weights' real age is unknown


class ModelBody(SparseModel):
    type: Literal["model"]
    id: str
    display_name: str
    created_at: datetime


class ModelPage(SparseModel):
    data: list[ModelBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ModelPageQuery(BaseModel):
    """Which part of the list a client of Anthropic's API wants. Others get all of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(20, ge=1, le=1000)
    after_id: str | None = None
    before_id: str | None = None


def model_body(name: str, display_name: str) -> ModelBody:
    return ModelBody(type="model", id=name, display_name=display_name, created_at=_CREATED)


def model_page(models: Sequence[ModelBody], query: ModelPageQuery) -> ModelPage:
    """Returns the models after one, or before one, or the first ones.

    Raises:
        InvalidRequest: no model has the id at which the page begins or ends.
    """
    places = {model.id: place for place, model in enumerate(models)}
    for name in ("after_id", "before_id"):
        if getattr(query, name) not in (None, *places):
            raise InvalidRequest(f"{name}: no model of the list has this id.")
    if query.before_id is not None:
        rest = models[: places[query.before_id]]
        data = rest[-query.limit :]
    else:
        rest = models if query.after_id is None else models[places[query.after_id] + 1 :]
        data = rest[: query.limit]
    return ModelPage(
        data=list(data),
        has_more=len(rest) > len(data),
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )
