"""Completes raw prompts, without a conversation or a chat template."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from operator import itemgetter

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.engine.backend import ModelInput
from app.models.chat.engine_terms import grammar_of
from app.models.chat.generation import ChatGenerator, ReplyEvent, ReplyProgress
from app.models.chat.reply import GeneratedReply
from app.models.choices import reseeded
from app.models.schemas import (
    GenerateRequest,
    GenerateResponse,
    Usage,
)

GenerateEvent = ReplyProgress | GenerateResponse


class TextGenerator:
    """The service behind POST /generate."""

    def __init__(self, settings: Settings, generator: ChatGenerator) -> None:
        self._settings = settings
        self._generator = generator

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
        self._check_count(request.num_return_sequences)
        if request.num_return_sequences > 1:
            replies = await self._collect_all(owner, request, deadline)
            yield _response(request, replies, time.monotonic() - began)
            return
        async with aclosing(self._events(owner, request, deadline)) as events:
            async for event in events:
                if isinstance(event, GeneratedReply):
                    yield _response(request, [event], time.monotonic() - began)
                else:
                    yield event

    def _check_count(self, sequences: int) -> None:
        """Raises InvalidRequest for more sequences than the server ever admits: a retry would not help."""
        limits = {
            "LLM_MAX_QUEUED_REQUESTS": self._settings.max_active_requests + self._settings.max_queued_requests
        }
        if self._settings.key_max_open_requests is not None:
            limits["LLM_KEY_MAX_OPEN_REQUESTS"] = self._settings.key_max_open_requests
        setting, limit = min(limits.items(), key=itemgetter(1))
        if sequences > limit:
            raise InvalidRequest(
                f"num_return_sequences: this server takes at most {limit} at once.",
                hint=f"Ask for fewer, or raise {setting}.",
            )

    async def _collect_all(
        self, owner: str, request: GenerateRequest, deadline: Deadline
    ) -> list[GeneratedReply]:
        """All sequences, which run side by side. If one fails, the others are cancelled.

        The first alone is kept for later requests, because all begin with the same prompt.
        """
        tasks = [
            asyncio.create_task(self._collect(owner, reseeded(request, index), deadline, is_kept=index == 0))
            for index in range(request.num_return_sequences)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _collect(
        self, owner: str, request: GenerateRequest, deadline: Deadline, *, is_kept: bool
    ) -> GeneratedReply:
        async with aclosing(self._events(owner, request, deadline, is_kept=is_kept)) as events:
            async for event in events:
                last = event
        assert isinstance(last, GeneratedReply), "a generation ends with its reply"
        return last

    def _events(
        self, owner: str, request: GenerateRequest, deadline: Deadline, *, is_kept: bool = True
    ) -> AsyncGenerator[ReplyEvent, None]:
        sampling = request.model_copy(update={"temperature": 0.0}) if request.do_sample is False else request
        prompt = ModelInput(
            prompt=request.prompt,
            is_kept=is_kept,
            grammar=grammar_of(request.response_format),
            prompt_logprobs=bool(request.prompt_logprobs) and is_kept,  # once for several sequences
            scope=owner,
        )
        return self._generator.generate(prompt, sampling, request.model_name, deadline)


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
        ),
        timings=first.timings,
        logprobs=None
        if first.logprobs is None
        else [reply.logprobs for reply in replies if reply.logprobs is not None],
        prompt_logprobs=first.prompt_logprobs,
    )
