"""Prefill beside decodes takes what keeps a step within a few times a decode."""

from app.engine.prefill_budget import PrefillBudget


def test_prefill_is_unbounded_until_something_is_known() -> None:
    assert PrefillBudget().prefill_rows(512) == 512


def test_prefill_fits_into_a_stretched_step() -> None:
    pace = PrefillBudget()
    for _ in range(20):
        pace.learn(0.1, 0)
        pace.learn(0.1 + 0.512, 512)
    rows = pace.prefill_rows(512)
    assert 0.2 < 0.1 + rows * 0.001 < 0.3


def test_prefill_never_starves_nor_exceeds_the_budget() -> None:
    slow, fast = PrefillBudget(), PrefillBudget()
    slow.learn(0.001, 0)
    slow.learn(9.0, 64)
    fast.learn(1.0, 0)
    fast.learn(1.0, 512)
    assert slow.prefill_rows(512) == 16
    assert fast.prefill_rows(512) == 512
