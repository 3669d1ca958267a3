"""The sequences of a step share passes within limits of padding and rows."""

import pytest
from hypothesis import given, settings, strategies as st

from app.engine.own_cache.passes import (
    NO_LIMITS,
    Joining,
    PassLimits,
    groups_of_prompts,
    groups_to_join,
    padding_of,
    passes_of,
)
from app.engine.scheduling.sequence import Chunk, TokenSequence

_LENGTHS = st.lists(st.integers(1, 20_000), max_size=12)


def chunk(computed: int, count: int, pending: int = 100, *, needs_all_logits: bool = False) -> Chunk:
    sequence = TokenSequence("a", range(computed + pending), needs_all_logits=needs_all_logits)
    sequence.advance(computed)
    return Chunk(sequence, count)


@given(_LENGTHS, st.integers(0, 5_000))
@settings(max_examples=100)
def test_groups_hold_every_sequence_once_with_little_padding(lengths: list[int], most: int) -> None:
    for joining in Joining:
        groups = groups_to_join(lengths, joining, most)
        assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    groups = [[lengths[place] for place in each] for each in groups_to_join(lengths, Joining.PADDED, most)]
    for ids in groups:
        assert padding_of(ids) <= 0.25 * sum(ids) + 512
    assert sum(padding_of(ids) for ids in groups) <= most
    assert len(groups_to_join(lengths, Joining.UNPADDED, 0)) <= 1


def test_groups_are_of_similar_lengths() -> None:
    assert groups_to_join([100, 90, 80], Joining.PADDED, 30) == [[0, 1, 2]]
    assert groups_to_join([100, 90, 80], Joining.PADDED, 29) == [[0, 1], [2]]
    assert groups_to_join([8000, 90, 7900, 80], Joining.PADDED, 1000) == [[0, 2], [1, 3]]


@given(st.lists(st.integers(1, 200), max_size=12), st.integers(0, 100), st.integers(1, 512))
@settings(max_examples=100)
def test_prompts_are_grouped_within_the_limits(lengths: list[int], padding: int, rows: int) -> None:
    places = groups_of_prompts(lengths, PassLimits(padding, rows))
    assert sorted(place for group in places for place in group) == list(range(len(lengths)))
    groups = [[lengths[place] for place in group] for group in places]
    assert sum(padding_of(ids) for ids in groups) <= padding
    for ids in groups:
        assert len(ids) == 1 or len(ids) * max(ids) <= rows
        assert max(ids) - min(ids) <= 16


def test_prompts_of_similar_lengths_share_a_pass() -> None:
    assert groups_of_prompts([40, 90, 42, 85], NO_LIMITS) == [[1, 3], [2, 0]]
    assert groups_of_prompts([40, 41, 42], PassLimits(rows=84)) == [[2, 1], [0]]
    assert groups_of_prompts([40, 41, 42], PassLimits(padding=1)) == [[2, 1], [0]]


def test_passes_are_shared_by_prompts_by_decodes_and_by_chunks_of_the_same_length() -> None:
    chunks = [chunk(0, 50), chunk(30, 1, 1), chunk(20, 17), chunk(0, 60), chunk(25, 1, 1), chunk(22, 17)]
    found = passes_of(chunks, Joining.PADDED, True, NO_LIMITS)
    assert [set(places) for places in found] == [{0, 3}, {1, 4}, {2, 5}]


@pytest.mark.parametrize(("joining", "passes"), [(Joining.PADDED, 3), (Joining.NEVER, 4)])
def test_prompts_are_read_alone_if_the_architecture_cannot_pad_them(joining: Joining, passes: int) -> None:
    chunks = [chunk(0, 50), chunk(30, 1, 1), chunk(0, 60), chunk(25, 1, 1)]
    assert len(passes_of(chunks, joining, False, NO_LIMITS)) == passes


def test_a_prompt_whose_logits_are_all_needed_is_read_alone() -> None:
    chunks = [chunk(0, 50), chunk(0, 50, needs_all_logits=True), chunk(0, 50)]
    assert passes_of(chunks, Joining.PADDED, True, NO_LIMITS) == [[1], [0, 2]]


def test_padding_of_prompts_leaves_less_for_the_caches_of_others() -> None:
    chunks = [chunk(0, 50), chunk(0, 40), chunk(30, 1, 1), chunk(25, 1, 1)]
    assert len(passes_of(chunks, Joining.PADDED, True, PassLimits(padding=15))) == 2
    assert len(passes_of(chunks, Joining.PADDED, True, PassLimits(padding=14))) == 3
