"""Owns raw generation: text that goes on from a prompt, with no conversation and no template."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.engine.ipc.messages import SamplingParams
from app.models.chat.reply import Reply, sampling_for
from app.models.lifecycle.state import ServedModel
from app.models.model_manager import ModelManager
from app.models.schemas import (
    DeltaEvent,
    GenerateRequest,
    GenerateResponse,
    LoadProgress,
    StartEvent,
    ThinkingEvent,
    Usage,
)

GenerateEvent = LoadProgress | StartEvent | ThinkingEvent | DeltaEvent | GenerateResponse


class TextGenerator:
    """Completes prompts with whichever model is asked."""

    def __init__(self, settings: Settings, models: ModelManager) -> None:
        self._settings = settings
        self._models = models

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Start, deltas and the response; with several sequences, which run side by side, no deltas.

        Raises:
            InvalidRequest, ModelNotFound, ModelUnavailable, QueueFull, ContextOverflow, DeadlineExceeded.
        """
        began = time.monotonic()
        self._check_count(request.num_return_sequences)
        deadline = Deadline.after(self._settings.request_timeout)
        async with aclosing(self._models.lease(request.model_name, deadline)) as lease:
            async for leased in lease:
                if isinstance(leased, ServedModel):
                    break
                yield leased
            served = leased
            assert isinstance(served, ServedModel), "a lease ends with its model"
            sampling = sampling_for(request, served)
            if request.do_sample is False:
                sampling = msgspec.structs.replace(sampling, temperature=0.0)
            replies = [Reply(served) for _ in range(request.num_return_sequences)]
            if len(replies) == 1:
                async with aclosing(self._stream(request.prompt, sampling, replies[0], deadline)) as events:
                    async for event in events:
                        yield event
            else:
                await self._collect_all(request.prompt, sampling, replies, deadline)
            yield _response(request, sampling, replies, time.monotonic() - began)

    def _check_count(self, sequences: int) -> None:
        """More than the server ever admits is no matter of coming back later."""
        limit = self._settings.max_active_requests + self._settings.max_queued_requests
        if sequences > limit:
            raise InvalidRequest(
                f"num_return_sequences: this server takes at most {limit} at once.",
                hint="Ask for fewer, or raise LLM_MAX_QUEUED_REQUESTS.",
            )

    async def _collect_all(
        self, prompt: str, sampling: SamplingParams, replies: list[Reply], deadline: Deadline
    ) -> None:
        tasks = [
            asyncio.ensure_future(self._collect(prompt, _reseeded(sampling, index), reply, deadline))
            for index, reply in enumerate(replies)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _collect(self, prompt: str, sampling: SamplingParams, reply: Reply, deadline: Deadline) -> None:
        async with aclosing(self._stream(prompt, sampling, reply, deadline)) as events:
            async for _ in events:
                pass

    def _stream(
        self, prompt: str, sampling: SamplingParams, reply: Reply, deadline: Deadline
    ) -> AsyncGenerator[StartEvent | ThinkingEvent | DeltaEvent, None]:
        generation = reply.served.client.generate(sampling, prompt=prompt, timeout_s=deadline.remaining_s)
        return reply.grow(generation)


def _reseeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """Each sequence draws differently, and a given seed gives the same set again."""
    if sampling.seed is None:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + index) % 2**63)


def _response(
    request: GenerateRequest, sampling: SamplingParams, replies: list[Reply], seconds: float
) -> GenerateResponse:
    usages = [reply.usage() for reply in replies]
    return GenerateResponse(
        generated_text=[reply.text for reply in replies],
        finish_reasons=[reply.finish_reason for reply in replies],
        prompt=request.prompt,
        model_name=replies[0].served.profile.name,
        model_id=replies[0].served.model_id,
        generation_time=seconds,
        parameters=replies[0].parameters(sampling),
        usage=Usage(
            prompt_tokens=usages[0].prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            cached_tokens=usages[0].cached_tokens,
        ),
        timings=replies[0].timings(),
    )
