"""The route for raw generation, which continues a prompt without a conversation."""

from typing import Annotated

from fastapi import APIRouter, Response

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import DeadlineDep, OwnerDep, ServicesDep
from app.api.docs import REPLIES, STREAMS_TEXT
from app.api.native.events import encode
from app.api.paths import NATIVE_PREFIX
from app.api.streaming import respond
from app.models.schemas import GenerateRequest, GenerateResponse

router = APIRouter(prefix=NATIVE_PREFIX, route_class=ParsedRoute, tags=["Generation"])


@router.post("/generate", response_model=GenerateResponse, responses=STREAMS_TEXT | REPLIES)
async def generate(
    body: Annotated[GenerateRequest, examples.GENERATE],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Continues the prompt exactly as given, without a conversation and without a chat template."""
    return respond(services.generator.generate(owner, body, deadline), body.stream, encode, deadline)
