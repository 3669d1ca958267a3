"""Generates several replies side by side, to one prompt or to several."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from operator import itemgetter
from typing import TypeVar

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ContextOverflow, InvalidRequest
from app.engine.backend import ModelInput
from app.models.chat.generation import ChatGenerator, ReplyEvent
from app.models.schemas import LoadProgress, SamplingFields, StartEvent

ChoiceEvent = tuple[int, ReplyEvent]
_PROMPT = "prompt: "  # how a message begins that is about the prompt
FieldsT = TypeVar("FieldsT", bound=SamplingFields)


class ChoiceGenerator:
    """The service behind requests that keep no conversation and may ask for several replies."""

    def __init__(self, settings: Settings, generator: ChatGenerator) -> None:
        self._settings = settings
        self._generator = generator

    def generate(
        self,
        model_input: ModelInput,
        sampling: SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
        *,
        count_field: str = "n",
        may_omit: bool = False,
    ) -> AsyncGenerator[ChoiceEvent, None]:
        """Yields the events of `count` replies as they happen, each with the index of its reply.

        Reply i is drawn with `seed + i`. If one fails, the others are cancelled. All begin with the same
        prompt, so only the keys and values of the first are kept for later requests, and only the first has
        log-probabilities of the prompt. No reply begins before the model has accepted all. If it `may_omit`,
        the oldest messages are left out of a prompt that does not fit into the context window.

        Raises:
            InvalidRequest: the server never admits so many requests at once. `count_field` is the name of the
                request's field with the count.
            ContextOverflow: the messages do not all fit into the context window, and it may not omit any.
            The other errors of ChatGenerator.generate.
        """
        self._check_count(count, count_field)
        return _merged(self._replies(model_input, sampling, model_name, deadline, count), may_omit)

    def generate_all(
        self,
        model_inputs: Sequence[ModelInput],
        sampling: SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
    ) -> AsyncGenerator[ChoiceEvent, None]:
        """Yields the events of `count` replies to each of the prompts, those to the first with the lowest
        indices. Otherwise as `generate`; an error that one prompt causes says which of several it is."""
        several = len(model_inputs) > 1
        self._check_count(count * len(model_inputs), "prompt" if several else "n")
        return _merged(
            [
                _numbered(source, place) if several else source
                for place, model_input in enumerate(model_inputs)
                for source in self._replies(model_input, sampling, model_name, deadline, count)
            ],
            may_omit=False,
        )

    def _replies(
        self,
        model_input: ModelInput,
        sampling: SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int,
    ) -> list[AsyncGenerator[ReplyEvent, None]]:
        other = replace(model_input, is_kept=False, prompt_logprobs=False)
        return [
            self._generator.generate(
                model_input if index == 0 else other, reseeded(sampling, index), model_name, deadline
            )
            for index in range(count)
        ]

    def _check_count(self, count: int, field: str) -> None:
        """Raises InvalidRequest for more replies than the server ever admits: a retry would not help."""
        limits = {
            "LLM_MAX_QUEUED_REQUESTS": self._settings.max_active_requests + self._settings.max_queued_requests
        }
        if self._settings.key_max_open_requests is not None:
            limits["LLM_KEY_MAX_OPEN_REQUESTS"] = self._settings.key_max_open_requests
        setting, limit = min(limits.items(), key=itemgetter(1))
        if count > limit:
            raise InvalidRequest(
                f"{field}: these are {count} replies, but this server takes at most {limit} at once.",
                hint=f"Ask for fewer, or raise {setting}.",
            )


def reseeded(sampling: FieldsT, index: int) -> FieldsT:
    """Returns the parameters with a seed for this reply, so that an equal request gives equal replies."""
    if sampling.seed is None or index == 0:
        return sampling
    return sampling.model_copy(update={"seed": (sampling.seed + index) % 2**63})


async def _numbered(source: AsyncGenerator[ReplyEvent, None], place: int) -> AsyncGenerator[ReplyEvent, None]:
    """Yields the events of a reply to one of several prompts, which an error about it names."""
    try:
        async with aclosing(source) as events:
            async for event in events:
                yield event
    except InvalidRequest as error:
        is_about_prompt = isinstance(error, ContextOverflow) or error.message.startswith(_PROMPT)
        if not is_about_prompt:
            raise
        raise type(error)(f"prompt.{place}: {error.message.removeprefix(_PROMPT)}", hint=error.hint) from None


async def _merged(
    sources: Sequence[AsyncGenerator[ReplyEvent, None]], may_omit: bool
) -> AsyncGenerator[ChoiceEvent, None]:
    """Yields the events of all sources. Each source runs in one task from its first step to its last.

    Until all have started, only the progress of loads is yielded, because any may still be refused.
    """
    queue: asyncio.Queue[tuple[int, ReplyEvent | None]] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_follow(source, index, queue, may_omit)) for index, source in enumerate(sources)
    ]
    try:
        running, unstarted, held = len(tasks), set(range(len(tasks))), list[ChoiceEvent]()
        while running:
            index, event = await queue.get()
            if event is None:
                await tasks[index]  # raises the error that has ended it
                running -= 1
            elif isinstance(event, LoadProgress):
                yield index, event
            else:
                unstarted.discard(index)
                held.append((index, event))
            if not unstarted:
                for each in held:
                    yield each
                held.clear()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(
    source: AsyncGenerator[ReplyEvent, None],
    index: int,
    queue: "asyncio.Queue[tuple[int, ReplyEvent | None]]",
    may_omit: bool,
) -> None:
    """Puts the events of a source into the queue, and None at its end."""
    try:
        async with aclosing(source) as events:
            async for event in events:
                if isinstance(event, StartEvent) and event.omitted_messages and not may_omit:
                    raise ContextOverflow(
                        "The messages do not fit into the model's context window.", hint="Send fewer of them."
                    )
                queue.put_nowait((index, event))
    finally:
        queue.put_nowait((index, None))
