"""Owns what handlers may ask for: the services that the lifespan built, and parameters that they share."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.services import Services

PREFIX = "/api/v1"


class QueryModel(BaseModel):
    """What may follow the question mark. Any other parameter is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class PageQuery(QueryModel):
    """A part of a list."""

    limit: int = Field(50, ge=1, le=200, description="Most entries in the answer.")
    offset: int = Field(0, ge=0, le=2**31 - 1, description="Entries to leave out from the beginning.")


class ModelQuery(QueryModel):
    model_name: str | None = Field(None, description="None means the current model.")


async def reject_unknown_input(request: Request) -> None:
    """A dependency of every route: what the route does not read is refused, never accepted and ignored.

    A route that reads parameters or a body has a model for them, which refuses unknown names itself.
    """
    route = request.scope["route"]
    if request.query_params and not route.dependant.query_params:
        problems = [{"type": "extra_forbidden", "loc": ("query", name)} for name in request.query_params]
        raise RequestValidationError(problems)
    if route.body_field is None and await request.body():
        raise InvalidRequest("This route takes no body.", hint="/docs shows what each route takes.")


async def _services(request: Request) -> Services:  # async: FastAPI would run a plain function in a thread
    services: Services = request.app.state.services
    return services


async def _deadline(services: Annotated[Services, Depends(_services)]) -> Deadline:
    return Deadline.after(services.request_timeout_s)


ServicesDep = Annotated[Services, Depends(_services)]
DeadlineDep = Annotated[Deadline, Depends(_deadline)]
PageParams = Annotated[PageQuery, Query()]
ModelParam = Annotated[ModelQuery, Query()]
ConversationId = Annotated[str, Path(description="As `POST /chat` and `POST /chat/new` give it.")]
