"""Drawing conversations."""

import random
from itertools import islice
from statistics import mean

import pytest
from hypothesis import given, strategies as st

from tests.capacity.workload import PlannedTurn, Quantity, Workload, fitting

TURNS = st.lists(
    st.builds(PlannedTurn, st.just(0.0), st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=8
).map(tuple)


def test_quantity_has_its_mean() -> None:
    source = random.Random(0)
    assert mean(Quantity(30, 0.8).draw(source) for _ in range(20_000)) == pytest.approx(30, rel=0.03)


def test_quantity_without_variation_is_constant() -> None:
    assert Quantity(7).draw(random.Random(0)) == 7


def test_same_seed_gives_a_user_the_same_conversations() -> None:
    first, second = (list(islice(Workload(1, seed=3).of_user(5), 4)) for _ in range(2))
    assert first == second
    assert first != list(islice(Workload(1, seed=4).of_user(5), 4))


@given(TURNS, st.integers(100, 2000), st.integers(0, 10))
def test_fitting_turns_fill_at_most_the_window(
    turns: tuple[PlannedTurn, ...], window: int, overhead: int
) -> None:
    kept = fitting(turns, window, overhead)
    assert sum(overhead + turn.message_tokens + turn.reply_tokens for turn in kept) <= window
    assert kept[1:] == turns[1 : len(kept)]
    assert all(turn.message_tokens > 0 and turn.reply_tokens > 0 for turn in kept)
