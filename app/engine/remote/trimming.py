"""Omits the oldest turns of a chat that outgrows the window of a remote engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from app.engine.backend import ModelInput
from app.engine.ipc.messages import SamplingParams
from app.engine.tokenization.history import History

PromptCounter = Callable[[ModelInput], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class TrimmedInput:
    """A chat without its oldest turns. `max_tokens` is the limit of its reply; None sets no limit."""

    model_input: ModelInput
    omitted_messages: int
    max_tokens: int | None


class HistoryTrimmer:
    """Makes shorter and shorter versions of one chat."""

    def __init__(self, model_input: ModelInput, sampling: SamplingParams) -> None:
        self._input = model_input
        self._wanted = sampling.max_tokens
        is_chat = model_input.messages is not None
        self._history = History.of(model_input.submit("", sampling)) if is_chat else None
        self._omitted_turns = 0

    @property
    def whole(self) -> TrimmedInput:
        return self._without(0)

    @property
    def _turns(self) -> int:
        return 0 if self._history is None else len(self._history.turns)

    def shorter(self) -> TrimmedInput | None:
        """Returns the chat without half of the turns that the last version had; None if none may go."""
        left = self._turns - self._omitted_turns
        if left == 0:
            return None
        self._omitted_turns += (left + 1) // 2
        return self._without(self._omitted_turns)

    async def fitted(self, window: int, count: PromptCounter) -> TrimmedInput | None:
        """Returns the version that omits the fewest turns and leaves room for a reply; None if none does.

        `window` is in tokens.
        """
        quarter = max(window // 4, 1)
        reserve = quarter if self._wanted is None else min(self._wanted, quarter)
        low, high = 0, self._turns
        while low < high:
            middle = (low + high) // 2
            if await count(self._without(middle).model_input) <= window - reserve:
                high = middle
            else:
                low = middle + 1
        self._omitted_turns = low
        trimmed = self._without(low)
        room = window - await count(trimmed.model_input)
        if room <= 0:
            return None
        return replace(trimmed, max_tokens=room if self._wanted is None else min(self._wanted, room))

    def _without(self, turns: int) -> TrimmedInput:
        if self._history is None:
            return TrimmedInput(self._input, 0, self._wanted)
        messages = self._history.without(turns)
        return TrimmedInput(
            replace(self._input, messages=messages), self._history.messages_in(turns), self._wanted
        )
