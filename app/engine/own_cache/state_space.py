"""Adapts state space layers (Mamba 2) of transformers to the CPU, and to checks of their logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from torch import nn

_LONGEST_CHUNK = 32  # tokens; with 16 and 64, prompts of 512 tokens take longer
_STATE, _CHUNK, _LIMIT = "ssm_state_size", "chunk_size", "time_step_limit"  # attributes of these layers


def shorten_scans(model: nn.Module) -> None:
    """Lets the layers scan at most 32 tokens at once, which changes no result.

    Config files name the length that suits a CUDA kernel, usually 256. Without it, transformers pads each
    prompt to whole chunks and computes every pair of tokens in a chunk.
    """
    for layer in _layers(model):
        if isinstance(length := getattr(layer, _CHUNK, None), int):
            setattr(layer, _CHUNK, min(length, _LONGEST_CHUNK))


@contextmanager
def unlimited_time_steps(model: nn.Module) -> Iterator[None]:
    """Lifts the limits of time steps, which transformers applies to prompts but not to single ids.

    With them, a pass without a cache and one with it give other logits though both are right.
    """
    limits = {layer: getattr(layer, _LIMIT) for layer in _layers(model) if hasattr(layer, _LIMIT)}
    try:
        for layer in limits:
            setattr(layer, _LIMIT, (0.0, inf))
        yield
    finally:
        for layer, limit in limits.items():
            setattr(layer, _LIMIT, limit)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if hasattr(layer, _STATE)]
