"""The sizes of passes that read prompts: few, because oneDNN compiles its products for each number of rows.

A compiled product takes half a megabyte and several milliseconds. Passes that only decode keep their number
of rows up to MOST_EXACT.
"""

MOST_EXACT = 32
_STEPS = ((32, 4), (64, 8), (128, 16), (512, 32))  # up to so many rows, sizes are multiples of so many
_LARGE_STEP = 128


def padded(rows: int) -> int:
    """Returns the smallest size that is not less than `rows`."""
    step = _step(rows)
    return -(-rows // step) * step


def cut(rows: int) -> int:
    """Returns the largest size that is not more than `rows`; fewer rows than a size has stay as they are."""
    step = _step(rows)
    return rows // step * step or rows


def _step(rows: int) -> int:
    return next((step for most, step in _STEPS if rows <= most), _LARGE_STEP)
