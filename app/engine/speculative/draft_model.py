"""Makes draft tokens with a smaller model of the same vocabulary: https://arxiv.org/abs/2211.17192.

The draft model's keys and values are further layers of the served model's slots, so that both are kept,
shared and evicted together.
"""

from collections.abc import Sequence

from app.engine.execution.model_runner import ModelRunner
from app.engine.scheduling.sequence import Chunk, TokenSequence

_MAX_CHUNK = 64  # ids of a long history that one step reads, so that the step stays short


class DraftModel:
    """`runner` runs the draft model, whose layers are numbered after those of the served model.

    `vocabulary` is the number of ids of the served model, which may differ from the draft model's: many are
    padded to a round number.
    """

    def __init__(self, runner: ModelRunner, vocabulary: int) -> None:
        self.runner = runner
        self._vocabulary = vocabulary

    def propose(self, wanted: Sequence[tuple[TokenSequence, int]]) -> None:
        """Propose up to the wanted number of draft ids for each decoding sequence, if its slot has room.

        A sequence gets none if it has an id that the draft model does not know, or if the draft model has not
        read all of it yet; then it reads some more.
        """
        drafts = [
            _DraftSequence(sequence, count)
            for sequence, count in wanted
            if len(sequence.ids) <= sequence.slot.capacity and self._knows(sequence)
        ]
        unfinished = drafts
        try:
            while unfinished:
                unfinished = self._advance(unfinished)
        finally:
            for draft in drafts:
                draft.close()

    def _knows(self, sequence: TokenSequence) -> bool:
        return max(sequence.ids[sequence.slot.draft_computed :], default=0) < self.runner.vocabulary

    def _advance(self, drafts: Sequence["_DraftSequence"]) -> list["_DraftSequence"]:
        """Run one pass. Returns the drafts that want more ids."""
        chunks = [Chunk(draft.copy, min(draft.copy.pending, _MAX_CHUNK)) for draft in drafts]
        drafting = [draft for draft, chunk in zip(drafts, chunks, strict=True) if chunk.is_last]
        tokens: list[int] = self.runner.forward(chunks)[:, : self._vocabulary].argmax(-1).tolist()
        for chunk in chunks:
            chunk.sequence.advance(chunk.count)
        for draft, token in zip(drafting, tokens, strict=True):
            draft.copy.accept([token])
        return [draft for draft in drafting if not draft.is_complete]


class _DraftSequence:
    """The draft ids of one sequence while they are made, at the end of a copy of its ids."""

    def __init__(self, sequence: TokenSequence, count: int) -> None:
        self._sequence = sequence
        self._end = len(sequence.ids) + min(count, sequence.slot.capacity - len(sequence.ids))
        self.copy = TokenSequence(sequence.request_id, sequence.ids)
        self.copy.attach(sequence.slot, sequence.slot.draft_computed)

    @property
    def is_complete(self) -> bool:
        return len(self.copy.ids) >= self._end

    def close(self) -> None:
        """Propose the draft ids, and record how much of the sequence the draft model has read."""
        length = len(self._sequence.ids)
        self._sequence.propose(self.copy.ids[length : self._end])
        self._sequence.slot.draft_computed = min(self.copy.computed, length)
