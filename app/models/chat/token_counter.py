"""Tokenises, detokenises and counts with a model's own tokenizer and chat template."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from app.core.deadline import Deadline
from app.engine.backend import ModelInput
from app.models.chat.engine_terms import chat_message_of, tool_use_of
from app.models.chat.generation import ModelLeases
from app.models.lifecycle.served_model import ServedModel
from app.models.schemas import (
    CountRequest,
    CountResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

T = TypeVar("T")


class TokenCounter:
    """The service behind POST /tokenize, /detokenize and /count. A model that is not loaded is loaded first.

    All methods raise ModelNotFound, NoModelChosen, ModelUnavailable, QueueFull, InvalidRequest or
    DeadlineExceeded.
    """

    def __init__(self, models: ModelLeases) -> None:
        self._models = models

    async def tokenize(self, request: TokenizeRequest, deadline: Deadline) -> TokenizeResponse:
        async def ask(model: ServedModel) -> TokenizeResponse:
            tokens = await model.backend.tokenize(
                request.text, deadline, adds_special_tokens=request.add_special_tokens
            )
            return TokenizeResponse(
                model_name=model.profile.name,
                token_ids=list(tokens.token_ids),
                tokens=[token.decode("utf-8", "replace") for token in tokens.token_bytes],
                count=len(tokens.token_ids),
            )

        return await self._with_model(request.model_name, deadline, ask)

    async def detokenize(self, request: DetokenizeRequest, deadline: Deadline) -> DetokenizeResponse:
        async def ask(model: ServedModel) -> DetokenizeResponse:
            text = await model.backend.detokenize(
                request.token_ids, deadline, skips_special_tokens=request.skip_special_tokens
            )
            return DetokenizeResponse(model_name=model.profile.name, text=text)

        return await self._with_model(request.model_name, deadline, ask)

    async def count(self, owner: str, request: CountRequest, deadline: Deadline) -> CountResponse:
        """Counts the tokens of a chat or a prompt, as the owner's next request would have them."""
        messages = None if request.messages is None else tuple(map(chat_message_of, request.messages))
        model_input = ModelInput(
            messages, request.prompt, think=request.think, tool_use=tool_use_of(request), scope=owner
        )
        return await self.count_input(model_input, request.model_name, deadline)

    async def count_input(
        self, model_input: ModelInput, model_name: str | None, deadline: Deadline
    ) -> CountResponse:
        """Counts the tokens of a prompt, as the model would see it."""

        async def ask(model: ServedModel) -> CountResponse:
            return CountResponse(
                model_name=model.profile.name,
                tokens=await model.backend.count_tokens(model_input, deadline),
                context_length=model.backend.info.context_length,
            )

        return await self._with_model(model_name, deadline, ask)

    async def _with_model(
        self, name: str | None, deadline: Deadline, ask: Callable[[ServedModel], Awaitable[T]]
    ) -> T:
        async with aclosing(self._models.lease(name, deadline)) as lease:
            async for leased in lease:
                if isinstance(leased, ServedModel):
                    return await ask(leased)
        raise AssertionError("a lease ends with the model")
