"""The parameters that handlers declare: the services, the deadline, the owner, shared query parameters."""

import re
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.middleware import OWNER
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest, NotPermitted
from app.models.storage.store import PageRequest
from app.services import Services

_VISIBLE = re.compile(r"[!-~]{1,200}")
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_SESSION = re.compile(rf"conv_([0-9a-f]{{32}})|({_UUID})")


class QueryModel(BaseModel):
    """Query parameters. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ListQuery(QueryModel):
    """Selects a part of the list of conversations."""

    limit: int = Field(50, ge=1, le=200, description="Maximum number of entries in the reply.")
    offset: int = Field(0, ge=0, le=2**31 - 1, description="Number of entries to skip. Not with `cursor`.")
    cursor: str | None = Field(
        None,
        max_length=300,
        description="The `next_cursor` of the previous page. Entries added since do not shift the pages.",
    )
    query: str | None = Field(
        None,
        max_length=500,
        description="Words, or beginnings of words, that stand together in the title or in one message.",
    )

    @model_validator(mode="after")
    def _one_position(self) -> "ListQuery":
        if self.cursor is not None and self.offset:
            raise ValueError("send offset or cursor, not both")
        return self

    def page(self) -> PageRequest:
        return PageRequest(self.limit, self.offset, self.cursor, self.query)


class TreeQuery(QueryModel):
    tree: bool = Field(False, description="Returns the messages of all branches, in order of their creation.")


class EventsQuery(QueryModel):
    after: int = Field(0, ge=0, description="The id of the last event that was read. 0: none.")


class ModelQuery(QueryModel):
    model_name: str | None = Field(None, description="Default: the current model.")


async def reject_unknown_input(request: Request) -> None:
    """Refuses query parameters and bodies that the route does not read. Every route depends on this.

    A route that reads them has a model for them, which refuses unknown names itself.
    """
    route = request.scope["route"]
    if request.query_params and not route.dependant.query_params:
        problems = [{"type": "extra_forbidden", "loc": ("query", name)} for name in request.query_params]
        raise RequestValidationError(problems)
    if route.body_field is None and await request.body():
        raise InvalidRequest("This route takes no body.", hint="/docs lists the fields of each route.")


async def _services(request: Request) -> Services:  # async: FastAPI would run a plain function in a thread
    services: Services = request.app.state.services
    return services


async def _deadline(services: Annotated[Services, Depends(_services)]) -> Deadline:
    return Deadline.after(services.request_timeout_s)


async def _owner(request: Request) -> str:
    """Returns the name of the caller. Only routes that require a key may depend on it."""
    owner: str = request.scope[OWNER]
    return owner


async def check_admin(request: Request, owner: Annotated[str, Depends(_owner)]) -> None:
    """Raises NotPermitted if LLM_ADMINS names keys, and the caller's is not among them."""
    admins: frozenset[str] = request.app.state.admins
    if admins and owner not in admins:
        raise NotPermitted(
            "Only an administrator may load, unload or switch models.",
            hint="Requests may name any model; LLM_ADMINS names the keys of administrators.",
        )


async def _idempotency_key(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(description="1 to 200 visible ASCII characters. The same key and body give the same turn."),
    ] = None,
) -> str | None:
    """Returns the key. Of several headers, FastAPI would take the last one."""
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1 or not all(map(_VISIBLE.fullmatch, keys)):
        raise InvalidRequest(
            "Idempotency-Key: it must be one key of 1 to 200 visible ASCII characters.",
            hint="A random UUID is a good key.",
        )
    return idempotency_key


async def _chosen_id(
    request: Request,
    x_session_id: Annotated[
        str | None,
        Header(
            description="The conversation of the request, for load balancers. If the request begins one, it "
            "gets this id: `conv_` and 32 hexadecimal digits, or a UUID, which no conversation has yet."
        ),
    ] = None,
) -> str | None:
    """Returns the id that the client has chosen for a conversation that it begins; None if it has not."""
    sessions = request.headers.getlist("x-session-id")
    found = _SESSION.fullmatch(sessions[0]) if len(sessions) == 1 else None
    return None if found is None else f"conv_{(found[1] or found[2].replace('-', '')).lower()}"


ServicesDep = Annotated[Services, Depends(_services)]
DeadlineDep = Annotated[Deadline, Depends(_deadline)]
OwnerDep = Annotated[str, Depends(_owner)]
ListParams = Annotated[ListQuery, Query()]
TreeParam = Annotated[TreeQuery, Query()]
AfterParam = Annotated[EventsQuery, Query()]
LastEventId = Annotated[
    int | None,
    Header(ge=0, description="Like `after`, over which it takes precedence. Browsers send it by themselves."),
]
OnlyHere = Annotated[
    bool,
    Header(
        alias="X-Only-Here",
        description="404 if another server of the database runs the turn, so that a proxy asks the next one.",
    ),
]
KeyDep = Annotated[str | None, Depends(_idempotency_key)]
ChosenId = Annotated[str | None, Depends(_chosen_id)]
ModelParam = Annotated[ModelQuery, Query()]
TurnId = Annotated[str, Path(description="The `message_id` of the turn's reply, from its `start` event.")]
ConversationId = Annotated[str, Path(description="From the reply of `POST /chat` or `POST /chat/new`.")]
