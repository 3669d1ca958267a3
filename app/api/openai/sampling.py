"""Translates the sampling fields of OpenAI's API into this server's."""

from typing import Any

from pydantic import ValidationError

from app.api.openai.chat_requests import SamplingOptions
from app.core.errors import InvalidRequest
from app.models.schemas import SamplingFields

_SEEDS = 2**63
_OTHER_NAMES = {"max_length": "max_tokens"}
_SAME = tuple(name for name in SamplingFields.model_fields if name in SamplingOptions.model_fields)


def sampling_fields(
    request: SamplingOptions, max_tokens: int | None, top_logprobs: int | None
) -> SamplingFields:
    """Returns the fields, of which those that the request leaves out take the model's defaults.

    Raises:
        InvalidRequest: a number is out of its range.
    """
    given: dict[str, Any] = {name: getattr(request, name) for name in _SAME}  # Any: as the fields type them
    if request.top_k == -1:  # vLLM's way to say that all tokens may be drawn
        given["top_k"] = 0
    if request.top_p == 0:  # which OpenAI's API allows: only the most likely token stays
        given["top_p"] = 1e-9
    if request.seed == -1:  # vLLM's and llama-server's way to say that each reply is drawn anew
        given["seed"] = None
    elif request.seed is not None and request.seed < 0:  # which OpenAI's API allows
        given["seed"] = request.seed % _SEEDS
    try:
        return SamplingFields.model_validate(
            {**given, "max_tokens": max_tokens, "top_logprobs": top_logprobs}
        )
    except ValidationError as error:
        raise InvalidRequest(problem_of(error)) from None


def problem_of(error: ValidationError) -> str:
    """Returns the first problem as `field: cause`."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return f"{_OTHER_NAMES.get(field, field)}: {first['msg'].removeprefix('Value error, ')}"
