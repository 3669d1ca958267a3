"""Completes raw prompts, without a conversation or a chat template."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.core.deadline import Deadline
from app.engine.backend import ModelInput
from app.models.chat.engine_terms import grammar_of
from app.models.chat.generation import ReplyProgress
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceEvent, ChoiceGenerator
from app.models.schemas import (
    GenerateRequest,
    GenerateResponse,
    Usage,
)

GenerateEvent = ReplyProgress | GenerateResponse


class TextGenerator:
    """The service behind POST /generate."""

    def __init__(self, choices: ChoiceGenerator) -> None:
        self._choices = choices

    async def generate(
        self, owner: str, request: GenerateRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yields progress and deltas, then the response. For several sequences it yields only the response.

        Only requests of the same owner share cached keys and values.

        Raises:
            InvalidRequest, ModelNotFound, NoModelChosen, ModelUnavailable, QueueFull, ContextOverflow,
            DeadlineExceeded.
        """
        began = time.monotonic()
        count = request.num_return_sequences
        replies: dict[int, GeneratedReply] = {}
        async with aclosing(self._events(owner, request, deadline)) as events:
            async for index, event in events:
                if isinstance(event, GeneratedReply):
                    replies[index] = event
                elif count == 1:
                    yield event
        yield _response(request, [replies[index] for index in range(count)], time.monotonic() - began)

    def _events(
        self, owner: str, request: GenerateRequest, deadline: Deadline
    ) -> AsyncGenerator[ChoiceEvent, None]:
        sampling = request.model_copy(update={"temperature": 0.0}) if request.do_sample is False else request
        prompt = ModelInput(
            prompt=request.prompt,
            grammar=grammar_of(request.response_format),
            prompt_logprobs=bool(request.prompt_logprobs),
            scope=owner,
        )
        return self._choices.generate(
            prompt,
            sampling,
            request.model_name,
            deadline,
            request.num_return_sequences,
            count_field="num_return_sequences",
        )


def _response(request: GenerateRequest, replies: list[GeneratedReply], seconds: float) -> GenerateResponse:
    first = replies[0]
    return GenerateResponse(
        generated_text=[reply.text for reply in replies],
        finish_reasons=[reply.finish_reason for reply in replies],
        prompt=request.prompt,
        model_name=first.model_name,
        model_id=first.model_id,
        generation_time=seconds,
        parameters=first.parameters,
        usage=Usage(
            prompt_tokens=first.usage.prompt_tokens,
            completion_tokens=sum(reply.usage.completion_tokens for reply in replies),
            cached_tokens=first.usage.cached_tokens,
            reasoning_tokens=sum(reply.usage.reasoning_tokens for reply in replies),
        ),
        timings=first.timings,
        logprobs=None
        if first.logprobs is None
        else [reply.logprobs for reply in replies if reply.logprobs is not None],
        prompt_logprobs=first.prompt_logprobs,
    )
