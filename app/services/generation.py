"""Defines the services that answer without a conversation."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from app.core.deadline import Deadline
from app.engine.backend import ModelInput
from app.models.chat.completion import GenerateEvent
from app.models.choices import ChoiceEvent
from app.models.schemas import (
    CountRequest,
    CountResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    GenerateRequest,
    SamplingFields,
    TokenizeRequest,
    TokenizeResponse,
)


class GenerationService(Protocol):
    """Continues raw prompts, without a conversation."""

    def generate(
        self, owner: str, request: GenerateRequest, deadline: Deadline, /
    ) -> AsyncGenerator[GenerateEvent, None]: ...


class ChoiceService(Protocol):
    """Generates one or several replies without a conversation."""

    def generate(
        self,
        model_input: ModelInput,
        sampling: SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
        *,
        may_omit: bool = False,
    ) -> AsyncGenerator[ChoiceEvent, None]: ...

    def generate_all(
        self,
        model_inputs: Sequence[ModelInput],
        sampling: SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
    ) -> AsyncGenerator[ChoiceEvent, None]: ...


class TokenService(Protocol):
    """Tokenises, detokenises and counts as a model does."""

    async def tokenize(self, request: TokenizeRequest, deadline: Deadline, /) -> TokenizeResponse: ...

    async def detokenize(self, request: DetokenizeRequest, deadline: Deadline, /) -> DetokenizeResponse: ...

    async def count(self, owner: str, request: CountRequest, deadline: Deadline, /) -> CountResponse: ...

    async def count_input(
        self, model_input: ModelInput, model_name: str | None, deadline: Deadline, /
    ) -> CountResponse: ...
