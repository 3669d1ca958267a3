"""Turns the events of replies into a text completion of OpenAI's older API, whole or in chunks."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Literal

from app.api.openai.chat_completion import CompletionIdentity, total_usage
from app.api.openai.chat_replies import EndOfStream
from app.api.openai.completions.logprobs import (
    TextLogprobs,
    TokenPlaces,
    places_in_prompt,
    text_logprobs,
)
from app.api.openai.completions.prompts import EchoedPrompts
from app.api.openai.wire import CompletionUsage, SparseModel
from app.core.errors import InvalidRequest
from app.core.sampling import MAX_PROMPT_LOGPROBS
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceEvent
from app.models.schemas import DeltaEvent, LogprobEntry


class TextChoice(SparseModel):
    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: TextLogprobs | None


class TextCompletion(SparseModel):
    """A completion, or a chunk of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage | None = None


class TextCompletionMaker:
    """Makes the parts of one completion, which has `count` choices for each prompt.

    The choices of the first prompt come first. With `echo`, the texts begin with their prompts.
    """

    def __init__(self, model: str, count: int, echo: EchoedPrompts | None) -> None:
        self._identity = CompletionIdentity(model)
        self._count = count
        self._echo = echo
        self._places: defaultdict[int, TokenPlaces] = defaultdict(TokenPlaces)  # by reply of a stream

    async def whole(self, events: AsyncGenerator[ChoiceEvent, None]) -> AsyncGenerator[TextCompletion, None]:
        """Yields the whole completion, once all replies are complete."""
        replies: dict[int, GeneratedReply] = {}
        scored = 0
        async with aclosing(events):
            async for index, event in events:
                if isinstance(event, GeneratedReply):
                    replies[index] = event
                    scored += _prompt_logprobs(event)
                    _check_prompt_logprobs(scored)
        choices = [await self._choice(index, replies) for index in sorted(replies)]
        yield self._completion(choices, usage=total_usage(replies, self._count))

    async def chunks(
        self, events: AsyncGenerator[ChoiceEvent, None], *, reports_usage: bool
    ) -> AsyncGenerator[TextCompletion | EndOfStream, None]:
        """Yields chunks as the texts grow, one with the usage if wanted, and the end of the stream."""
        replies: dict[int, GeneratedReply] = {}
        async with aclosing(events):
            async for index, event in events:
                for choice in self._pieces(index, event):
                    yield self._completion([choice])
                if isinstance(event, GeneratedReply):
                    replies[index] = event
        if reports_usage:
            yield self._completion([], usage=total_usage(replies, self._count))
        yield EndOfStream()

    def _pieces(self, index: int, event: object) -> Iterator[TextChoice]:
        match event:
            case DeltaEvent(text=text, logprobs=logprobs):
                yield TextChoice(
                    index=index, text=text, finish_reason=None, logprobs=self._logprobs(index, logprobs)
                )
            case GeneratedReply():
                yield TextChoice(index=index, text="", finish_reason=_finish(event), logprobs=None)

    async def _choice(self, index: int, replies: Mapping[int, GeneratedReply]) -> TextChoice:
        reply, number = replies[index], index // self._count
        prompt = replies[number * self._count].prompt_logprobs or []
        echo = "" if self._echo is None else await self._echo.text(number)
        return TextChoice(
            index=index,
            text=echo + reply.text,
            finish_reason=_finish(reply),
            logprobs=await asyncio.to_thread(_logprobs_after, echo, prompt, reply.logprobs),
        )

    def _logprobs(self, index: int, entries: list[LogprobEntry] | None) -> TextLogprobs | None:
        return None if entries is None else text_logprobs(entries, self._places[index].next(entries))

    def _completion(self, choices: list[TextChoice], **usage: CompletionUsage) -> TextCompletion:
        return TextCompletion(
            id=self._identity.id,
            object="text_completion",
            created=self._identity.created,
            model=self._identity.model,
            choices=choices,
            **usage,
        )


def _prompt_logprobs(reply: GeneratedReply) -> int:
    """Returns how many log-probabilities of its prompt the reply has."""
    return sum(1 + len(entry.top_logprobs) for entry in reply.prompt_logprobs or ())


def _check_prompt_logprobs(count: int) -> None:
    """Raises InvalidRequest if the prompts together have more log-probabilities than one prompt may have."""
    if count > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"the prompts have more than {MAX_PROMPT_LOGPROBS:,} log-probabilities",
            hint="Send fewer prompts in one request.",
        )


def _logprobs_after(
    echo: str, prompt: list[LogprobEntry], reply: list[LogprobEntry] | None
) -> TextLogprobs | None:
    """Returns the log-probabilities of a reply after those of its prompt, if that is echoed."""
    if reply is None:
        return None
    places = places_in_prompt(prompt, len(echo)) + TokenPlaces(len(echo)).next(reply)
    return text_logprobs([*prompt, *reply], places)


def _finish(reply: GeneratedReply) -> Literal["stop", "length"]:
    return "length" if reply.finish_reason == "length" else "stop"
