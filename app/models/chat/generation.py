"""Generates a reply with a model, which it loads first if necessary. It keeps no state between requests."""

import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec

from app.core.catalogue import DEFAULT_SAMPLING
from app.core.deadline import Deadline
from app.core.errors import WorkerDied
from app.engine.backend import ModelInput
from app.engine.ipc.messages import Accepted, Delta, Finished, PromptLogprobs, SamplingParams
from app.models.chat.reply import GeneratedReply, ReplyCollector
from app.models.key_limits import KeyLimits, TokenMeter
from app.models.lifecycle.served_model import ServedModel
from app.models.metrics.activity import OpenRequest
from app.models.metrics.request_metrics import ReplyMeter, RequestMetrics
from app.models.metrics.server_metrics import ServerMetrics
from app.models.schemas import (
    DeltaEvent,
    LoadProgress,
    SamplingFields,
    SamplingValue,
    StartEvent,
    ThinkingEvent,
    ToolCallEvent,
)

logger = logging.getLogger(__name__)

ReplyProgress = LoadProgress | StartEvent | ThinkingEvent | ToolCallEvent | DeltaEvent
ReplyEvent = ReplyProgress | GeneratedReply


class ModelLeases(Protocol):
    """Lends loaded models."""

    def lease(self, name: str | None, deadline: Deadline) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        """Yields progress while the model loads, then the model, which stays loaded until this is closed.

        `name` None means the current model.

        Raises:
            ModelNotFound, NoModelChosen, ModelUnavailable.
            DeadlineExceeded: the model was not loaded in time.
        """


class ChatGenerator:
    """Turns chat messages, or a raw prompt, into the events of a reply."""

    def __init__(
        self, models: ModelLeases, limits: KeyLimits | None = None, metrics: RequestMetrics | None = None
    ) -> None:
        """Without `limits`, callers have none. The caller of a request is the scope of its input."""
        self._models = models
        self._limits = KeyLimits() if limits is None else limits
        self._metrics = ServerMetrics().requests if metrics is None else metrics

    async def generate(
        self, model_input: ModelInput, sampling: SamplingFields, model_name: str | None, deadline: Deadline
    ) -> AsyncGenerator[ReplyEvent, None]:
        """Yields load progress, a start, deltas, then the whole reply. Closing it cancels the request.

        If a worker dies before it has begun the request, the request is submitted once more, to a new worker.

        Raises:
            ModelNotFound, NoModelChosen, ModelUnavailable, QueueFull, ContextOverflow, InvalidRequest.
            RateLimitExceeded: the caller has too many open requests, or has used up its tokens.
            DeadlineExceeded: loading and generating together took too long.
        """
        owner = model_input.scope
        with self._metrics.track(owner, model_name) as request, self._limits.admit(owner) as meter:
            run = _Run(model_input, sampling, model_name, deadline, meter, request)
            async with aclosing(self._generate(run)) as events:
                async for event in events:
                    yield event

    async def _generate(self, run: "_Run") -> AsyncGenerator[ReplyEvent, None]:
        has_begun = False
        try:
            async with aclosing(self._attempt(run)) as events:
                async for event in events:
                    has_begun = has_begun or not isinstance(event, LoadProgress)
                    yield event
            return
        except WorkerDied as error:
            if has_begun:
                raise
            logger.warning("request submitted again: %s", error.message)

        async with aclosing(self._attempt(run)) as events:
            async for event in events:
                yield event

    async def _attempt(self, run: "_Run") -> AsyncGenerator[ReplyEvent, None]:
        async with aclosing(self._models.lease(run.model_name, run.deadline)) as lease:
            async for leased in lease:
                if isinstance(leased, LoadProgress):
                    yield leased
                    continue
                with self._metrics.measure(leased.profile.name, run.request) as measured:
                    async with aclosing(_reply(leased, run, measured)) as events:
                        async for event in events:
                            yield event


@dataclass(frozen=True, slots=True)
class _Run:
    """One request, with the meters that count it."""

    model_input: ModelInput
    sampling: SamplingFields
    model_name: str | None
    deadline: Deadline
    meter: TokenMeter
    request: OpenRequest


async def _reply(model: ServedModel, run: _Run, measured: ReplyMeter) -> AsyncGenerator[ReplyEvent, None]:
    sampling, meter = sampling_for(run.sampling, model.sampling), run.meter
    reply, is_counted = ReplyCollector(model, sampling), True
    async with aclosing(model.backend.generate(run.model_input, sampling, run.deadline)) as events:
        async for event in events:
            measured.record(event)
            match event:
                case Accepted():
                    _log_start(model, sampling, event)
                    meter.count_prompt(event.prompt_tokens or 0)
                    is_counted = event.prompt_tokens is not None
                    yield reply.start(event)
                case PromptLogprobs():
                    reply.add_prompt(event)
                case Delta():
                    meter.count_completion(event.tokens)
                    yield reply.add(event)
                case Finished():
                    _log_end(model, event)
                    meter.count_prompt(0 if is_counted else event.usage.prompt_tokens)
                    meter.count_completion(event.usage.completion_tokens)
                    yield reply.finish(event)


def _log_start(model: ServedModel, sampling: SamplingParams, accepted: Accepted) -> None:
    logger.debug(
        "reply begun: model=%s prompt_tokens=%s omitted_messages=%d max_tokens=%d temperature=%g top_p=%g "
        "top_k=%d seed=%s stop_strings=%d",
        model.profile.name,
        accepted.prompt_tokens,
        accepted.omitted_messages,
        accepted.max_tokens,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.seed,
        len(sampling.stop),
    )


def _log_end(model: ServedModel, finished: Finished) -> None:
    logger.debug(
        "reply ended: model=%s finish_reason=%s completion_tokens=%d cached_tokens=%d queue_s=%.3f "
        "first_token_s=%.3f total_s=%.3f",
        model.profile.name,
        finished.finish_reason,
        finished.usage.completion_tokens,
        finished.usage.cached_tokens,
        finished.timings.queue_s,
        finished.timings.first_token_s,
        finished.timings.total_s,
    )


def sampling_for(request: SamplingFields, defaults: Mapping[str, SamplingValue]) -> SamplingParams:
    """Returns the request's parameters, with the model's defaults for those that it leaves out.

    A remote engine decides what has no default here.

    Without a seed it draws one, so that every reply can be repeated. The seed is small enough for a double,
    which is how many clients read a number.
    """
    given = request.model_dump(include=set(SamplingFields.model_fields), exclude_none=True)
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    parameters = {name: default.value for name, default in defaults.items()} | given
    left = tuple(name for name in DEFAULT_SAMPLING.given() if name not in parameters)
    params = msgspec.convert(parameters | {"left_to_engine": left}, SamplingParams, str_keys=True)
    if params.seed is None and params.temperature > 0:
        return msgspec.structs.replace(params, seed=secrets.randbelow(2**32))
    return params
