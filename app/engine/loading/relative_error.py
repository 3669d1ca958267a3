"""Owns how far logits are from those that they should be."""

from torch import Tensor


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """The norm of the difference, as a share of the expected ones' spread; a wrong path is beyond 1."""
    logits, expected = logits.float(), expected.float()
    return float((expected - logits).norm() / (expected - expected.mean()).norm())
