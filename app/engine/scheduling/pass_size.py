"""Limits passes that read prompts to a few sizes, because oneDNN compiles its products for each size.

A compiled product takes half a megabyte and several milliseconds. Passes that only decode keep their number
of rows up to MOST_EXACT.
"""

MOST_EXACT = 32
_STEPS = ((32, 4), (64, 8), (128, 16), (512, 32))  # (n, k): sizes up to n rows are multiples of k
_LARGE_STEP = 128


def padded(rows: int) -> int:
    """Returns the smallest size of at least `rows`."""
    step = _step(rows)
    return -(-rows // step) * step


def cut(rows: int) -> int:
    """Returns the largest size of at most `rows`; `rows` itself if it is below the smallest size."""
    step = _step(rows)
    return rows // step * step or rows


def _step(rows: int) -> int:
    return next((step for most, step in _STEPS if rows <= most), _LARGE_STEP)
