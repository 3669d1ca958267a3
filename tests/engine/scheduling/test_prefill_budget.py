"""Prefill that shares a step with decodes keeps the step within a few times a plain decode."""

import random

import pytest
from hypothesis import given, strategies as st

from app.engine.scheduling.prefill_budget import PrefillBudget, PrefillCost

SECONDS = st.floats(1e-6, 1e-2)
MANY_ROWS = st.lists(st.integers(16, 2048), min_size=16, max_size=16)


def taught(decode_s: float, steps: list[tuple[int, float]], unnoticed_s: float = 0.0) -> PrefillBudget:
    """Returns a budget that has learned from decodes of `decode_s`, and from what prefill added to steps."""
    budget = PrefillBudget(unnoticed_s)
    budget.learn(decode_s, 0)
    for rows, seconds in steps:
        budget.learn(decode_s + seconds, rows)
    return budget


def test_prefill_rows_are_unlimited_until_steps_were_measured() -> None:
    assert PrefillBudget().prefill_rows(512) == 512


def test_prefill_rows_fit_into_a_slower_step() -> None:
    rows = taught(0.1, [(512, 0.512)] * 20).prefill_rows(512)
    assert 0.2 < 0.1 + rows * 0.001 <= 0.24


def test_prefill_rows_fit_into_a_step_that_nobody_notices() -> None:
    rows = taught(0.001, [(512, 0.0512)] * 20, unnoticed_s=0.02).prefill_rows(512)
    assert 0.018 < 0.001 + rows * 0.0001 <= 0.0201


def test_prefill_rows_stay_between_the_minimum_and_the_limit() -> None:
    assert taught(0.001, [(64, 9.0)]).prefill_rows(512) == 16
    assert taught(1.0, [(512, 0.0)]).prefill_rows(512) == 512


def card_s(rows: int, fixed_s: float) -> float:
    """Returns the seconds of prefill on a graphics card, where a pass costs more than its rows."""
    return fixed_s + 8e-6 * rows


def rows_of_long_prompt(fixed_s: float) -> list[int]:
    """Returns the rows of its steps, after prompts of few rows."""
    short = [(rows, card_s(rows, fixed_s)) for rows in (40, 64, 24, 96, 48, 32, 80, 56)]
    budget, chosen = taught(0.005, short, unnoticed_s=0.02), []
    for _ in range(10):
        chosen.append(budget.prefill_rows(2048))
        budget.learn(0.005 + card_s(chosen[-1], fixed_s), chosen[-1])
    return chosen


def test_long_prompt_soon_gets_the_rows_that_a_card_computes_at_once() -> None:
    first, *_, last = rows_of_long_prompt(fixed_s=0.01)
    assert first == 2 * 96 and 0.018 < 0.005 + card_s(last, 0.01) <= 0.0201


def test_fixed_cost_above_the_limit_is_paid_for_many_rows() -> None:
    assert 500 < rows_of_long_prompt(fixed_s=0.03)[-1] < 1000


@given(fixed_s=SECONDS, row_s=SECONDS, rows=MANY_ROWS, seed=st.integers(0, 99))
def test_cost_is_near_the_true_one_despite_noise_and_outliers(
    fixed_s: float, row_s: float, rows: list[int], seed: int
) -> None:
    drawn = random.Random(seed)
    steps = [(count, (fixed_s + row_s * count) * drawn.uniform(0.95, 1.05)) for count in rows]
    for index in drawn.sample(range(len(steps)), 2):
        steps[index] = (steps[index][0], 20 * steps[index][1])
    cost = PrefillCost.of(steps)
    usual = sorted(rows)[len(rows) // 2]
    assert cost.fixed_s >= 0 and cost.row_s > 0
    assert cost.fixed_s + cost.row_s * usual == pytest.approx(fixed_s + row_s * usual, rel=0.3)


@given(rows=st.integers(16, 2048), seconds=SECONDS, count=st.integers(1, 16))
def test_steps_of_one_size_cost_as_much_as_their_rows(rows: int, seconds: float, count: int) -> None:
    cost = PrefillCost.of([(rows, seconds)] * count)
    assert cost.row_s == pytest.approx(seconds / rows)
    assert cost.fixed_s == pytest.approx(0, abs=1e-9)


@given(decode_s=SECONDS, row_s=SECONDS, rows=MANY_ROWS, factor=st.floats(0.01, 100))
def test_faster_machine_takes_the_same_rows(
    decode_s: float, row_s: float, rows: list[int], factor: float
) -> None:
    here = taught(decode_s, [(count, row_s * count) for count in rows])
    there = taught(factor * decode_s, [(count, factor * row_s * count) for count in rows])
    assert here.prefill_rows(4096) == pytest.approx(there.prefill_rows(4096), abs=1)


@given(fixed_s=st.floats(0, 0.1), row_s=st.floats(1e-5, 1e-2), seed=st.integers(0, 99))
def test_long_prompt_keeps_to_the_limit_from_any_beginning(fixed_s: float, row_s: float, seed: int) -> None:
    """Every step has the rows that the budget allows, so that steps soon differ little in rows."""
    drawn, decode_s = random.Random(seed), 0.1
    budget = taught(decode_s, [(drawn.randint(16, 512), drawn.uniform(0.001, 1.0))])
    for _ in range(40):
        rows = budget.prefill_rows(2048)
        budget.learn(decode_s + (fixed_s + row_s * rows) * drawn.uniform(0.95, 1.05), rows)
    rows = budget.prefill_rows(2048)
    assert rows == 16 or fixed_s + row_s * rows <= 1.2 * 1.4 * decode_s
    assert rows == 2048 or fixed_s + row_s * (rows + 1) >= 0.7 * 1.4 * decode_s
