"""Records the rows that a model's linear layers receive for a short text, to judge rounded layers by."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# A chat, a list, figures and code, because a model's largest activations come from few tokens of some kinds.
TEXT = """User: What is the capital of France?
Assistant: The capital of France is Paris. It lies on the Seine and has about two million inhabitants.

1. 12 + 30 = 42
2. x = [1, 2, 3]
def add(a, b):
    return a + b
"""
_MOST_ROWS = 128  # for a tokenizer that makes a token of each byte

RecordedRows = Mapping[nn.Module, Tensor]


@torch.inference_mode()
def record(model: PreTrainedModel, ids: Sequence[int]) -> RecordedRows:
    """Returns the rows `[tokens, inputs]` of each linear layer, from the model's own forward pass."""
    rows: dict[nn.Module, Tensor] = {}
    with _recording(model, rows):
        model(input_ids=torch.tensor([ids[:_MOST_ROWS]], device=model.device), use_cache=False)
    return rows


@contextmanager
def _recording(model: PreTrainedModel, rows: dict[nn.Module, Tensor]) -> Iterator[None]:
    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:  # the arguments of any layer
        rows[module] = inputs[0].reshape(-1, inputs[0].shape[-1])

    layers = [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mean_error(output: Tensor, expected: Tensor) -> float:
    """Returns the mean over the rows of the norm of the difference over the norm of the expected row."""
    output, expected = output.float(), expected.float()
    errors = (output - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)
    return float(errors.mean())
