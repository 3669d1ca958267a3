"""The routes /v1/messages: Anthropic's API, without a stored conversation."""

from fastapi import APIRouter, Response

from app.api.anthropic.errors import anthropic_error
from app.api.anthropic.events import PING, encode
from app.api.anthropic.message import message_events, whole_message
from app.api.anthropic.model_input import message_input, message_sampling
from app.api.anthropic.replies import ReplyMessageBody
from app.api.anthropic.requests import MessagesRequest, PromptRequest
from app.api.body import ParsedRoute
from app.api.dependencies import DeadlineDep, OwnerDep, ServicesDep
from app.api.docs import STREAMS_MESSAGE, fails_as
from app.api.examples import COUNT_MESSAGE, MESSAGE
from app.api.openai.wire import SparseModel
from app.api.paths import ANTHROPIC_PREFIX
from app.api.streaming import respond

router = APIRouter(
    prefix=ANTHROPIC_PREFIX, route_class=ParsedRoute, tags=["Anthropic"], responses=fails_as(anthropic_error)
)


@router.post("", response_model=ReplyMessageBody, responses=STREAMS_MESSAGE)
async def create_message(
    services: ServicesDep, owner: OwnerDep, deadline: DeadlineDep, body: MessagesRequest = MESSAGE
) -> Response:
    """Answers messages, as Anthropic's Messages API does."""
    events = services.choices.generate(
        message_input(body, owner), message_sampling(body), body.model, deadline
    )
    made = message_events(events, body.model) if body.stream else whole_message(events, body.model)
    return respond(made, bool(body.stream), encode, deadline, keep_alive=PING)


class CountedTokens(SparseModel):
    input_tokens: int


@router.post("/count_tokens")
async def count_tokens(
    services: ServicesDep, owner: OwnerDep, deadline: DeadlineDep, body: PromptRequest = COUNT_MESSAGE
) -> CountedTokens:
    """Counts the tokens that a message's prompt would have, as Anthropic's API does."""
    counted = await services.tokens.count_input(message_input(body, owner), body.model, deadline)
    return CountedTokens(input_tokens=counted.tokens)
