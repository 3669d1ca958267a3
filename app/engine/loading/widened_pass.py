"""Computes a model's passes in a dtype with more bits than its weights, without copying all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear
from transformers import PreTrainedModel

from app.engine.execution.module_hooks import hooked

_BLOCK = 1 << 20  # weights that are converted at once; in float32 they fit into a core's cache


@contextmanager
def computing_in(dtype: torch.dtype, model: PreTrainedModel) -> Iterator[None]:
    """Converts weights to `dtype` only while they are used, and only as many as are used at once.

    Of linear layers that is a block, and of embeddings the rows that are looked up. Other modules have all of
    their own weights converted while they run, and small ones whose weights others read, all the time.
    """
    with _widened_throughout(_read_by_others(model), dtype):
        narrow = [module for module in model.modules() if _is_narrow(module, dtype)]
        replaced = [module for module in narrow if _replace_forward(module, dtype)]
        try:
            with _widened(set(narrow) - set(replaced), dtype):
                yield
        finally:
            for module in replaced:
                del module.forward


def _read_by_others(model: nn.Module) -> list[nn.Module]:
    """Returns convolutions and layers of time steps, whose weights the mixers around them read."""
    return [
        module
        for name, module in model.named_modules()
        if type(module) is nn.Conv1d or (type(module) is nn.Linear and name.endswith(".dt_proj"))
    ]


@contextmanager
def _widened_throughout(modules: list[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    stored = {
        values: values.data
        for module in modules
        for values in module.parameters(recurse=False)
        if _has_fewer_bits(values, dtype)
    }
    try:
        for values, data in stored.items():
            values.data = data.to(dtype)
        yield
    finally:
        for values, data in stored.items():
            values.data = data


def _is_narrow(module: nn.Module, dtype: torch.dtype) -> bool:
    return any(_has_fewer_bits(values, dtype) for values in module.parameters(recurse=False))


def _has_fewer_bits(values: Tensor, dtype: torch.dtype) -> bool:
    return values.is_floating_point() and values.element_size() < dtype.itemsize


def _replace_forward(module: nn.Module, dtype: torch.dtype) -> bool:
    """Returns whether the module has got another pass, which converts less at once."""
    if "forward" in vars(module):  # other code has replaced it
        return False
    if type(module) is nn.Linear:
        module.forward = partial(_linear, module, dtype)  # type: ignore[method-assign]
    elif type(module) is nn.Embedding or hasattr(module, "scalar_embed_scale"):
        module.forward = partial(_look_up, module, dtype)
    return "forward" in vars(module)


def _linear(module: nn.Linear, dtype: torch.dtype, rows: Tensor) -> Tensor:
    weight = module.weight
    step = min(module.out_features, max(1, _BLOCK // module.in_features))
    # One buffer for all blocks: the holes between freed ones would add up to a whole copy.
    buffer = torch.empty(step, module.in_features, dtype=dtype, device=weight.device)
    outputs = torch.empty(*rows.shape[:-1], module.out_features, dtype=rows.dtype, device=weight.device)
    for start in range(0, module.out_features, step):
        block = weight[start : start + step]
        outputs[..., start : start + step] = linear(rows, buffer[: len(block)].copy_(block))
    return outputs if module.bias is None else outputs + module.bias.to(dtype)


def _look_up(module: nn.Module, dtype: torch.dtype, ids: Tensor) -> Tensor:
    table: Any = module  # an embedding; Gemma's multiplies its rows
    rows = embedding(ids, table.weight).to(dtype)
    return rows * table.embed_scale.to(dtype) if hasattr(table, "scalar_embed_scale") else rows


@contextmanager
def _widened(modules: set[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Converts all of each module's own weights while it runs."""
    stored: dict[nn.Module, dict[nn.Parameter, Tensor]] = {}  # by module: another may use the same weight

    def widen(module: nn.Module) -> None:
        narrow = [values for values in module.parameters(recurse=False) if _has_fewer_bits(values, dtype)]
        stored.setdefault(module, {}).update((values, values.data) for values in narrow)
        for values in narrow:
            values.data = values.data.to(dtype)

    def restore(module: nn.Module) -> None:
        for values, narrow in stored.pop(module, {}).items():
            values.data = narrow

    try:
        with hooked(modules, widen, restore):
            yield
    finally:
        for module in list(stored):  # those that failed
            restore(module)
