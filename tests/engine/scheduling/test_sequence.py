"""A sequence's counts stay consistent through every transition."""

import pytest

from app.engine.kv.slot import Slot
from app.engine.scheduling.sequence import Chunk, TokenSequence


def test_accept_counts_verified_draft_ids_as_computed() -> None:
    sequence = TokenSequence("a", [1, 2, 3])
    sequence.advance(3)
    sequence.propose([4, 5, 6])
    sequence.accept([4, 5, 9], verified=2)
    assert list(sequence.ids) == [1, 2, 3, 4, 5, 9]
    assert (sequence.computed, sequence.pending, sequence.draft_ids) == (5, 1, ())


def test_accept_of_a_reply_that_ends_among_its_draft_ids_leaves_nothing_pending() -> None:
    sequence = TokenSequence("a", [1])
    sequence.advance(1)
    sequence.accept([2], verified=3)
    assert (sequence.computed, sequence.pending) == (2, 0)


def test_cached_is_that_of_the_first_attachment() -> None:
    sequence = TokenSequence("a", [1, 2, 3, 4])
    assert sequence.cached == 0
    sequence.attach(Slot(8), computed=2)
    sequence.detach()
    sequence.rewind()
    assert (sequence.computed, sequence.has_slot) == (0, False)
    sequence.attach(Slot(8), computed=3)
    assert (sequence.cached, sequence.computed) == (2, 3)


def test_misuse_is_an_error() -> None:
    sequence = TokenSequence("a", [1, 2])
    with pytest.raises(AssertionError):
        sequence.detach()
    with pytest.raises(AssertionError):
        sequence.advance(3)
    sequence.attach(Slot(8), computed=0)
    with pytest.raises(AssertionError):
        sequence.attach(Slot(8), computed=0)


def test_chunk_counts_rows_and_knows_whether_it_is_the_last() -> None:
    sequence = TokenSequence("a", [1, 2, 3])
    assert not Chunk(sequence, 2).is_last
    sequence.advance(2)
    assert Chunk(sequence, 1).is_last
    assert Chunk(sequence, 1, (7, 8)).rows == 3
