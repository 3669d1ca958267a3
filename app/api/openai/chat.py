"""The route /v1/chat/completions: OpenAI's chat completions, without a stored conversation."""

from fastapi import APIRouter, Response

from app.api.body import ParsedRoute
from app.api.dependencies import DeadlineDep, OwnerDep, ServicesDep
from app.api.docs import STREAMS_CHUNKS, fails_as
from app.api.error_formats import openai_error
from app.api.examples import CHAT_COMPLETION
from app.api.openai.chat_completion import completion_chunks, whole_completion
from app.api.openai.chat_replies import ChatCompletion
from app.api.openai.chat_requests import ChatCompletionRequest
from app.api.openai.events import encode
from app.api.openai.model_input import chat_input, chat_sampling
from app.api.paths import OPENAI_PREFIX
from app.api.streaming import respond

router = APIRouter(
    prefix=OPENAI_PREFIX, route_class=ParsedRoute, tags=["OpenAI"], responses=fails_as(openai_error)
)


@router.post("/chat/completions", response_model=ChatCompletion, responses=STREAMS_CHUNKS)
async def create_chat_completion(
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
    body: ChatCompletionRequest = CHAT_COMPLETION,
) -> Response:
    """Answers messages, as OpenAI's chat completions do."""
    count = body.n or 1
    events = services.choices.generate(
        chat_input(body, owner), chat_sampling(body), body.model, deadline, count
    )
    if body.stream:
        chunks = completion_chunks(events, body.model, reports_usage=body.reports_usage)
        return respond(chunks, True, encode, deadline)
    return respond(whole_completion(events, body.model), False, encode, deadline)
