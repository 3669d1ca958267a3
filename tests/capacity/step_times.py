"""The duration of a step as a function of its work, fitted to measured steps."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from app.engine.scheduling.sequence import Chunk

_KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # rows


@dataclass(frozen=True, slots=True)
class StepShape:
    """The work of one step. A chunk of one token is a decode, any other is prefill."""

    decodes: int = 0  # sequences, of one row each
    prefill_rows: int = 0
    samples: int = 0  # sequences that get a token
    decode_tokens: int = 0  # that the decodes attend to, added up
    prefill_pairs: float = 0.0  # of a row of prefill and a token that it attends to
    longest: int = 0  # tokens that one decode attends to, at most

    @property
    def rows(self) -> int:
        return self.decodes + self.prefill_rows


def shape_of(chunks: Sequence[Chunk]) -> StepShape:
    """Returns the work of these chunks. Call it before their sequences advance."""
    lengths = [chunk.sequence.computed + 1 for chunk in chunks if chunk.count == 1]
    prefills = [chunk for chunk in chunks if chunk.count > 1]
    return StepShape(
        decodes=len(lengths),
        prefill_rows=sum(chunk.count for chunk in prefills),
        samples=sum(chunk.is_last for chunk in chunks),
        decode_tokens=sum(lengths),
        prefill_pairs=sum(chunk.count * (chunk.sequence.computed + chunk.count / 2) for chunk in prefills),
        longest=max(lengths, default=0),
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds over rows: straight lines between the points, continued beyond the first and the last."""

    rows: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.rows) == len(self.seconds) > 1
        assert all(low < high for low, high in pairwise(self.rows)), "rows must increase"

    def at(self, rows: float) -> float:
        index = min(max(bisect_right(self.rows, rows), 1), len(self.rows) - 1)
        (x0, x1), (y0, y1) = self.rows[index - 1 : index + 1], self.seconds[index - 1 : index + 1]
        return max(0.0, y0 + (y1 - y0) * (rows - x0) / (x1 - x0))


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a step. With `prefill`, prefill is a pass of its own, after that of the decodes."""

    rows: Curve  # of the pass over all rows, or over the decodes alone
    prefill: Curve | None = None
    sample_s: float = 0.0  # for each sequence that gets a token
    decode_token_s: float = 0.0  # for each token that a decode attends to
    prefill_pair_s: float = 0.0  # for each pair of a row of prefill and a token
    longest_token_s: float = 0.0  # for each token of the longest decode, if that takes longer than all

    def seconds(self, shape: StepShape) -> float:
        if self.prefill is None:
            passes = self.rows.at(shape.rows)
        else:
            passes = self.rows.at(shape.decodes) if shape.decodes else 0.0
            passes += self.prefill.at(shape.prefill_rows) if shape.prefill_rows else 0.0
        attention = max(self.decode_token_s * shape.decode_tokens, self.longest_token_s * shape.longest)
        return passes + attention + self.prefill_pair_s * shape.prefill_pairs + self.sample_s * shape.samples


@dataclass(frozen=True, slots=True)
class StepSample:
    shape: StepShape
    seconds: float


def fit(samples: Sequence[StepSample]) -> StepTimes:
    """Returns the times with the least squared relative errors: one pass over all rows.

    No time is negative, and more rows never take less time. Between the numbers of rows in _KNOTS, of those
    that occur, the time is linear.
    """
    near = {knot_near(sample.shape.rows) for sample in samples}
    reached = [knot for knot in _KNOTS if knot in near]
    assert len(reached) > 1, "the samples have too few numbers of rows"
    features = np.array([[1.0, *_ramps(s.shape.rows, reached), *_terms(s.shape)] for s in samples])
    seconds = np.array([sample.seconds for sample in samples])
    weights = _least_squares(features / seconds[:, None], np.ones(len(samples)))
    knots = [float(seconds) for seconds in np.cumsum(weights[: len(reached)])]
    sample_s, decode_token_s, prefill_pair_s = (float(weight) for weight in weights[len(reached) :])
    return StepTimes(
        Curve(tuple(float(knot) for knot in reached), tuple(knots)),
        sample_s=sample_s,
        decode_token_s=decode_token_s,
        prefill_pair_s=prefill_pair_s,
    )


def relative_errors(times: StepTimes, samples: Sequence[StepSample]) -> list[float]:
    """Returns for each sample by which share of it the fitted time differs."""
    return [abs(times.seconds(sample.shape) / sample.seconds - 1) for sample in samples]


def knot_near(rows: int) -> int | None:
    """Returns the number of rows in _KNOTS that differs from this one by a quarter at most, or None."""
    return next((knot for knot in _KNOTS if 0.8 * knot <= rows <= 1.25 * knot), None)


def _ramps(rows: float, knots: Sequence[int]) -> list[float]:
    """Returns the share of the way that is gone from each knot to the next; of the last, it may exceed 1."""
    shares = [max(0.0, (rows - low) / (high - low)) for low, high in pairwise(knots)]
    return [*(min(share, 1.0) for share in shares[:-1]), shares[-1]]


def _terms(shape: StepShape) -> tuple[float, float, float]:
    return shape.samples, shape.decode_tokens, shape.prefill_pairs


def _least_squares(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns weights of at least zero: features whose weight would be negative are left out, worst first."""
    weights = np.zeros(features.shape[1])
    used = list(range(features.shape[1]))
    while used:
        scale = np.maximum(np.abs(features[:, used]).max(axis=0), 1e-12)
        found = np.linalg.lstsq(features[:, used] / scale, target, rcond=None)[0] / scale
        worst = int(np.argmin(found * scale))
        if found[worst] >= 0:
            weights[used] = found
            break
        del used[worst]
    return weights
