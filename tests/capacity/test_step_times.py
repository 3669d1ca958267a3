"""Fitting and reading step times."""

import random

import pytest
from hypothesis import given, strategies as st

from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.capacity.step_times import (
    Curve,
    StepSample,
    StepShape,
    StepTimes,
    fit,
    relative_errors,
    shape_of,
)

TRUE = StepTimes(
    Curve((1, 32, 512), (0.01, 0.05, 0.9)), sample_s=0.0002, decode_token_s=2e-6, prefill_pair_s=3e-8
)


def drawn_shape(source: random.Random) -> StepShape:
    decodes, rows = source.randint(0, 32), source.choice((0, 0, 16, 100, 400))
    samples = decodes + (1 if rows else 0)
    return StepShape(decodes or 1, rows, samples or 1, decodes * source.randint(10, 900), rows * rows / 2)


def test_curve_is_linear_between_and_beyond_its_points() -> None:
    curve = Curve((1, 3, 5), (10, 20, 40))
    assert [curve.at(rows) for rows in (1, 2, 3, 4, 5, 6)] == [10, 15, 20, 30, 40, 50]


def test_curve_refuses_points_out_of_order() -> None:
    with pytest.raises(AssertionError, match="increase"):
        Curve((3, 1), (1, 2))


def test_fit_finds_the_times_of_steps_without_noise() -> None:
    source = random.Random(1)
    shapes = [drawn_shape(source) for _ in range(400)]
    samples = [StepSample(shape, TRUE.seconds(shape)) for shape in shapes]
    assert max(relative_errors(fit(samples), samples)) < 0.01


@given(st.integers(0, 2**32))
def test_fitted_times_never_fall_with_more_rows(seed: int) -> None:
    source = random.Random(seed)
    shapes = [drawn_shape(source) for _ in range(60)]
    samples = [StepSample(shape, TRUE.seconds(shape) * source.uniform(0.3, 3)) for shape in shapes]
    times = fit(samples)
    seconds = [times.rows.at(rows) for rows in range(1, 600, 7)]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert min(times.sample_s, times.decode_token_s, times.prefill_pair_s) >= 0


def test_prefill_pass_of_its_own_is_added_to_that_of_the_decodes() -> None:
    times = StepTimes(Curve((1, 2), (0.1, 0.2)), prefill=Curve((1, 101), (1.0, 2.0)))
    assert times.seconds(StepShape(decodes=2)) == pytest.approx(0.2)
    assert times.seconds(StepShape(prefill_rows=101)) == pytest.approx(2.0)
    assert times.seconds(StepShape(decodes=2, prefill_rows=101)) == pytest.approx(2.2)


def test_shape_of_counts_decodes_and_prefill() -> None:
    decoding, prefilling = TokenSequence("a", range(10)), TokenSequence("b", range(50))
    decoding.begin(9)
    prefilling.begin(20)
    shape = shape_of([Chunk(decoding, 1), Chunk(prefilling, 10)])
    assert shape == StepShape(1, 10, samples=1, decode_tokens=10, prefill_pairs=250, longest=10)
