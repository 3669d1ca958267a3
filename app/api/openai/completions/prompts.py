"""Defines the prompts of /v1/completions: a text or the ids of its tokens, or several of either."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from app.core.deadline import Deadline
from app.engine.ipc.messages import RawPrompt
from app.models.schemas import DetokenizeRequest, NonBlankText, TokenId
from app.services.generation import TokenService

_MAX_PROMPTS = 1024
_TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
_MANY = Field(min_length=1, max_length=_MAX_PROMPTS, fail_fast=True)


def _form(value: Any) -> str:  # Any: raw JSON, before validation
    """Returns a tag that is no identifier, so that messages about errors leave it out."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list):
        return "lists of ids"
    if isinstance(first, int):
        return "a list of ids"
    return "a list of texts" if isinstance(value, list) else "a text"


Prompts = Annotated[
    Annotated[NonBlankText, Tag("a text")]
    | Annotated[list[NonBlankText], _MANY, Tag("a list of texts")]
    | Annotated[_TokenIds, Tag("a list of ids")]
    | Annotated[list[_TokenIds], _MANY, Tag("lists of ids")],
    Discriminator(_form),
]


def prompts_of(given: str | list[str] | list[int] | list[list[int]]) -> list[RawPrompt]:
    """Returns the single prompts, in order."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [tuple(given)]
    return [each if isinstance(each, str) else tuple(each) for each in given]


@dataclass(frozen=True, slots=True)
class EchoedPrompts:
    """The texts of a request's prompts, which are repeated before the replies."""

    prompts: Sequence[RawPrompt]
    model: str
    tokens: TokenService
    deadline: Deadline

    async def text(self, number: int) -> str:
        """Returns the text of a prompt, with the names of special tokens among its ids.

        Raises:
            InvalidRequest: the model's remote engine cannot tell the text of ids.
            The other errors of the service.
        """
        prompt = self.prompts[number]
        if isinstance(prompt, str):
            return prompt
        asked = DetokenizeRequest(token_ids=list(prompt), model_name=self.model)
        return (await self.tokens.detokenize(asked, self.deadline)).text
