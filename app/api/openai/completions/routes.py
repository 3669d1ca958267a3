"""The route /v1/completions: OpenAI's older API, which continues a text as it stands."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field, StrictBool, StrictInt, model_validator

from app.api.body import ParsedRoute
from app.api.dependencies import DeadlineDep, OwnerDep, ServicesDep
from app.api.docs import STREAMS_CHUNKS, fails_as
from app.api.error_formats import openai_error
from app.api.examples import TEXT_COMPLETION
from app.api.openai.chat_requests import SamplingRequest
from app.api.openai.completions.prompts import EchoedPrompts, Prompts, prompts_of
from app.api.openai.completions.reply import TextCompletion, TextCompletionMaker
from app.api.openai.events import encode
from app.api.openai.model_input import grammar_of
from app.api.openai.sampling import sampling_fields
from app.api.paths import OPENAI_PREFIX
from app.api.streaming import respond
from app.engine.backend import ModelInput
from app.engine.ipc.messages import RawPrompt
from app.models.schemas import SamplingFields

router = APIRouter(
    prefix=OPENAI_PREFIX, route_class=ParsedRoute, tags=["OpenAI"], responses=fails_as(openai_error)
)

_DEFAULT_MAX_TOKENS = 16  # as in OpenAI's API


class CompletionRequest(SamplingRequest):
    prompt: Prompts
    echo: StrictBool | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:  # Any: raw JSON, before validation
        if isinstance(data, dict) and data.get("suffix"):
            raise ValueError("suffix: not supported by this server")
        if isinstance(data, dict) and data.get("best_of") not in (None, data.get("n"), 1):
            raise ValueError("best_of: not supported by this server")
        return data

    @model_validator(mode="after")
    def _echo_is_whole(self) -> "CompletionRequest":
        if self.echo and self.stream:
            raise ValueError("echo: a stream has only the new text")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: without echo, nothing would be left of 0 tokens")
        return self


@router.post("/completions", response_model=TextCompletion, responses=STREAMS_CHUNKS)
async def create_completion(
    services: ServicesDep, owner: OwnerDep, deadline: DeadlineDep, body: CompletionRequest = TEXT_COMPLETION
) -> Response:
    """Continues a text as it stands, as OpenAI's older completions do."""
    prompts, count = prompts_of(body.prompt), body.n or 1
    inputs = [_model_input(prompt, body, owner) for prompt in prompts]
    events = services.choices.generate_all(inputs, _sampling(body), body.model, deadline, count)
    echo = EchoedPrompts(prompts, body.model, services.tokens, deadline) if body.echo else None
    maker = TextCompletionMaker(body.model, count, echo)
    if body.stream:
        return respond(maker.chunks(events, reports_usage=body.reports_usage), True, encode, deadline)
    return respond(maker.whole(events), False, encode, deadline)


def _model_input(prompt: RawPrompt, body: CompletionRequest, owner: str) -> ModelInput:
    return ModelInput(
        prompt=prompt,
        prompt_logprobs=bool(body.echo) and body.logprobs is not None,
        grammar=grammar_of(body),
        scope=owner,
    )


def _sampling(body: CompletionRequest) -> SamplingFields:
    """Returns the sampling fields. No other request may ask for a reply of no tokens."""
    if body.max_tokens == 0:
        return sampling_fields(body, 1, body.logprobs).model_copy(update={"max_tokens": 0})
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return sampling_fields(body, max_tokens, body.logprobs)
