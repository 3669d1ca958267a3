"""Owns the draft model: a smaller one of the same vocabulary, which guesses what the served one says next.

Speculative decoding (https://arxiv.org/abs/2211.17192). Its keys and values lie in the slots of the served
model, as further layers, so that they are kept, shared and evicted with them. Checking is the engine's.
"""

from collections.abc import Sequence

from app.engine.execution.model_runner import ModelRunner
from app.engine.scheduler import Chunk, TokenSequence

_ROWS = 64  # ids of a history that are read in one step, so that nobody waits long for it


class DraftModel:
    """`runner` has the draft model, whose layers are numbered behind those of the served one."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner

    def guess(self, wanted: Sequence[tuple[TokenSequence, int]]) -> None:
        """Sets the guess of sequences that decode: up to so many ids, as far as their slots have room.

        One whose ids are not all read yet gets none; more of them are read.
        """
        readers = [_Reader(*each) for each in wanted if len(each[0].ids) <= each[0].slot.capacity]
        going = readers
        try:
            while going:
                going = self._advance(going)
        finally:
            for reader in readers:
                reader.close()

    def _advance(self, readers: Sequence["_Reader"]) -> list["_Reader"]:
        """One pass; returns those that guess further."""
        chunks = [Chunk(reader.view, min(reader.view.pending, _ROWS)) for reader in readers]
        guessing = [reader for reader, chunk in zip(readers, chunks, strict=True) if chunk.is_last]
        tokens: list[int] = self.runner.forward(chunks).argmax(-1).tolist()
        for chunk in chunks:
            chunk.sequence.computed += chunk.count
        for reader, token in zip(guessing, tokens, strict=True):
            reader.view.ids.append(token)
        return [reader for reader in guessing if reader.guessed < reader.count]


class _Reader:
    """A sequence as the draft model sees it. Guesses stand at the end of the same ids until it is closed."""

    def __init__(self, sequence: TokenSequence, count: int) -> None:
        slot = sequence.slot
        self._sequence = sequence
        self._length = len(sequence.ids)
        self.count = min(count, slot.capacity - self._length)
        self.view = TokenSequence(sequence.request_id, sequence.ids, computed=slot.drafted, slot=slot)

    @property
    def guessed(self) -> int:
        return len(self.view.ids) - self._length

    def close(self) -> None:
        sequence, length = self._sequence, self._length
        sequence.guess = tuple(sequence.ids[length : length + self.count])
        del sequence.ids[length:]
        sequence.slot.drafted = min(self.view.computed, length)
