"""Prefill that shares a step with decodes keeps the step within a few times a plain decode."""

from app.engine.scheduling.prefill_budget import PrefillBudget


def test_prefill_rows_are_unlimited_until_steps_were_measured() -> None:
    assert PrefillBudget().prefill_rows(512) == 512


def test_prefill_rows_fit_into_a_slower_step() -> None:
    budget = PrefillBudget()
    for _ in range(20):
        budget.learn(0.1, 0)
        budget.learn(0.1 + 0.512, 512)
    rows = budget.prefill_rows(512)
    assert 0.2 < 0.1 + rows * 0.001 < 0.3


def test_prefill_rows_fit_into_a_step_that_nobody_notices() -> None:
    budget = PrefillBudget(unnoticed_s=0.02)
    for _ in range(20):
        budget.learn(0.001, 0)
        budget.learn(0.001 + 0.0512, 512)
    assert 0.018 < 0.001 + budget.prefill_rows(512) * 0.0001 <= 0.0201


def test_prefill_rows_stay_between_the_minimum_and_the_limit() -> None:
    slow, fast = PrefillBudget(), PrefillBudget()
    slow.learn(0.001, 0)
    slow.learn(9.0, 64)
    fast.learn(1.0, 0)
    fast.learn(1.0, 512)
    assert slow.prefill_rows(512) == 16
    assert fast.prefill_rows(512) == 512
