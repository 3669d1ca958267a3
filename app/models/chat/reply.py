"""Owns what all replies have in common: sampling with a profile's defaults, growing, and what is reported."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field

from app.engine.ipc import messages
from app.engine.ipc.client import Event
from app.models.lifecycle.state import ServedModel
from app.models.schemas import (
    DeltaEvent,
    FinishReason,
    Parameters,
    SamplingFields,
    StartEvent,
    ThinkingEvent,
    Timings,
    Usage,
)


def sampling_for(request: SamplingFields, served: ServedModel) -> messages.SamplingParams:
    """The request's own numbers, and the model's where it says nothing."""
    given = request.model_dump(include=set(SamplingFields.model_fields), exclude_none=True)
    stop = given.pop("stop", ())
    defaults = asdict(served.sampling)
    return messages.SamplingParams(
        **(defaults | given), stop=(stop,) if isinstance(stop, str) else tuple(stop)
    )


@dataclass(slots=True)
class Reply:
    """One reply as it grows."""

    served: ServedModel
    parts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    omitted_messages: int = 0
    max_tokens: int | None = None  # what the window left of those asked for; None: not admitted yet
    finished: messages.Finished | None = None

    async def grow(
        self, generation: AsyncGenerator[Event, None], **ids: str
    ) -> AsyncGenerator[StartEvent | ThinkingEvent | DeltaEvent, None]:
        """Consumes a generation to its end. `ids` are what the start event says besides."""
        async with aclosing(generation) as events:
            async for event in events:
                match event:
                    case messages.Accepted():
                        yield self._start(event, **ids)
                    case messages.Delta(kind="thinking", text=text):
                        self.thoughts.append(text)
                        yield ThinkingEvent(text=text)
                    case messages.Delta(kind="text", text=text):
                        self.parts.append(text)
                        yield DeltaEvent(text=text)
                    case messages.Finished():
                        self.finished = event

    def _start(self, accepted: messages.Accepted, **ids: str) -> StartEvent:
        self.omitted_messages += accepted.omitted_messages
        self.max_tokens = accepted.max_tokens
        return StartEvent(
            model_name=self.served.profile.name,
            model_id=self.served.model_id,
            prompt_tokens=accepted.prompt_tokens,
            omitted_messages=self.omitted_messages,
            **ids,
        )

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def thinking(self) -> str | None:
        return "".join(self.thoughts) if self.thoughts else None

    @property
    def finish_reason(self) -> FinishReason:
        return "interrupted" if self.finished is None else self.finished.finish_reason

    def parameters(self, sampling: messages.SamplingParams) -> Parameters:
        """What was really used of `sampling`."""
        fields = {name: getattr(sampling, name) for name in Parameters.model_fields}
        return Parameters(**(fields | {"stop": list(sampling.stop), "max_tokens": self.max_tokens}))

    def usage(self) -> Usage:
        assert self.finished is not None
        usage = self.finished.usage
        return Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        )

    def timings(self) -> Timings:
        assert self.finished is not None
        timings = self.finished.timings
        decode_s = timings.total_s - timings.first_token_s
        decoded = self.finished.usage.completion_tokens - 1
        return Timings(
            queue_s=timings.queue_s,
            first_token_s=timings.first_token_s,
            total_s=timings.total_s,
            tokens_per_second=decoded / decode_s if decoded > 0 and decode_s > 0 else None,
        )
