"""Routes about tokens: tokenise, detokenise, count."""

from typing import Annotated

from fastapi import APIRouter

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import DeadlineDep, OwnerDep, ServicesDep
from app.api.docs import REPLIES
from app.api.paths import NATIVE_PREFIX
from app.models.schemas import (
    CountRequest,
    CountResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

router = APIRouter(prefix=NATIVE_PREFIX, route_class=ParsedRoute, tags=["Tokens"])


@router.post("/tokenize", responses=REPLIES)
async def tokenize(
    body: Annotated[TokenizeRequest, examples.TOKENIZE], services: ServicesDep, deadline: DeadlineDep
) -> TokenizeResponse:
    """Returns the tokens of a text, as the model's tokenizer cuts it."""
    return await services.tokens.tokenize(body, deadline)


@router.post("/detokenize", responses=REPLIES)
async def detokenize(
    body: Annotated[DetokenizeRequest, examples.DETOKENIZE], services: ServicesDep, deadline: DeadlineDep
) -> DetokenizeResponse:
    """Returns the text of tokens."""
    return await services.tokens.detokenize(body, deadline)


@router.post("/count", responses=REPLIES)
async def count(
    body: Annotated[CountRequest, examples.COUNT],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> CountResponse:
    """Counts the tokens of a chat and its tools, or of a prompt, as the model would see them."""
    return await services.tokens.count(owner, body, deadline)
