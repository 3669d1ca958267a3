"""Defines the fields that say how a reply is generated, which several requests share."""

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
)

from app.core import sampling
from app.models.schemas.response_format import ResponseFormat
from app.models.schemas.tools import ToolFields
from app.models.schemas.wire import (
    RequestModel,
    StopField,
    StopString,
    Text,
    TokenId,
    TokenIdText,
)


def _describe_alias(schema: dict[str, Any]) -> None:  # Any: JSON schema
    properties = schema["properties"]
    properties["max_length"] = properties["max_tokens"] | {
        "title": "Max Length",
        "description": "Another name of `max_tokens`. Send only one of them.",
    }


class SamplingFields(RequestModel):
    """How to sample the reply. A field that is left out takes the model's default."""

    model_config = ConfigDict(json_schema_extra=_describe_alias)

    max_tokens: Annotated[StrictInt | None, sampling.MAX_TOKENS] = Field(
        None,
        validation_alias=AliasChoices("max_tokens", "max_length"),
        description="The most tokens that the reply may have. The context window limits it as well. "
        "Alias: `max_length`.",
    )
    temperature: Annotated[StrictFloat | None, sampling.TEMPERATURE] = Field(
        None, description="0 is greedy: it always takes the most likely token."
    )
    top_p: Annotated[StrictFloat | None, sampling.TOP_P] = Field(
        None, description="Samples from the most likely tokens that together have this probability."
    )
    top_k: Annotated[StrictInt | None, sampling.TOP_K] = Field(
        None, description="Samples from this many of the most likely tokens. 0 turns it off."
    )
    min_p: Annotated[StrictFloat | None, sampling.MIN_P] = Field(
        None,
        description="Excludes tokens less likely than this share of the most likely token's probability.",
    )
    repetition_penalty: Annotated[StrictFloat | None, sampling.REPETITION_PENALTY] = Field(
        None, description="Above 1, tokens of the prompt and the reply become less likely to be repeated."
    )
    presence_penalty: Annotated[StrictFloat | None, sampling.PRESENCE_PENALTY] = Field(
        None, description="Above 0, tokens of the reply become less likely to be repeated."
    )
    frequency_penalty: Annotated[StrictFloat | None, sampling.FREQUENCY_PENALTY] = Field(
        None, description="As `presence_penalty`, but once for each occurrence of the token."
    )
    seed: Annotated[StrictInt | None, sampling.SEED] = Field(
        None, description="The same request with the same seed gives the same reply."
    )
    stop: StopField | None = Field(
        None, description="A text, or several, that ends the reply and is not part of it."
    )
    stop_token_ids: Annotated[list[TokenId] | None, FailFast()] = Field(
        None,
        max_length=sampling.MAX_STOP_TOKENS,
        description="Tokens that end the reply, in addition to the model's own.",
    )
    include_stop_str_in_output: StrictBool | None = Field(
        None, description="Whether the text that ended the reply is part of it."
    )
    ignore_eos: StrictBool | None = Field(
        None, description="Whether the reply goes on where the model would end it."
    )
    min_tokens: Annotated[StrictInt | None, sampling.MIN_TOKENS] = Field(
        None, description="No token and no stop text ends the reply before it has this many tokens."
    )
    bad_words: Annotated[list[StopString] | None, FailFast()] = Field(
        None, max_length=sampling.MAX_BAD_WORDS, description="Texts that the reply never contains."
    )
    top_logprobs: Annotated[StrictInt | None, sampling.TOP_LOGPROBS] = Field(
        None,
        description="Reports the log-probability of each token of the reply, and this many of the likeliest "
        "tokens in its place. Penalties, bans and temperature do not change them.",
    )
    logit_bias: dict[TokenIdText, Annotated[StrictFloat, sampling.LOGIT_BIAS]] | None = Field(
        None,
        max_length=sampling.MAX_BIASED_TOKENS,
        description="By token id, a number from -100 to 100 that is added to the logit of the token.",
    )


class GenerationFields(SamplingFields):
    """How to generate a reply's text."""

    response_format: ResponseFormat | None = Field(
        None,
        description="The form of the reply's text, after any thinking. A reply that `max_tokens` cuts off is "
        "incomplete; its finish_reason is `length`.",
    )


class TurnFields(GenerationFields, ToolFields):
    """The fields of every request for a reply."""

    think: StrictBool | Literal["auto"] | None = Field(
        None,
        description="Whether a reasoning model thinks before it answers. Its thinking is not part of the "
        "response. If left out, it thinks only if its chat template has no switch for it. A model that "
        "cannot comply refuses the request. `auto`: it thinks if it can.",
    )
    background: StrictBool = Field(
        False,
        description="Whether the turn goes on if the client leaves. `GET /chat/turns/{message_id}/events` "
        "reads it again, `DELETE /chat/turns/{message_id}` stops it.",
    )
    thinking_budget: StrictInt | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="The most tokens of thinking, after which it is closed and the answer begins.",
    )
    instructions: Text | None = Field(
        None, description="A system prompt for this reply alone. It comes before the conversation's own."
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="`disabled`: a request whose messages do not all fit into the context window is refused. "
        "If left out: auto, which leaves out the oldest ones.",
    )
