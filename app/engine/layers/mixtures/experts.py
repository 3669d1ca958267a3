"""Quantises the experts of mixtures, whose weights transformers keeps in three dimensions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from app.engine.layers.blocks import BlockExperts
from app.engine.layers.grouped_layers import has_grouped_products
from app.engine.layers.mixtures.products import block_experts
from app.engine.layers.packer import Packer

# The facts by which transformers' own implementations compute the experts of any architecture. A module that
# lacks one of them computes in a way of its own.
_FACTS = ("num_experts", "has_gate", "has_bias", "has_post_expert_norm", "is_transposed")


class QuantisedExperts(nn.Module):
    """Computes what `experts` computed with its weights, which `up` and `down` have in few bits.

    The rows are sorted by their experts, so that each product reads the weights of an expert once.
    """

    def __init__(self, experts: Any, up: nn.Module, down: nn.Module) -> None:  # each family has its own class
        super().__init__()
        self._experts = experts
        self._up, self._down = up, down

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Takes and returns rows `[tokens, width]`. Each token has `top_k` experts and their weights."""
        chosen = top_k_index.flatten()
        # Some routers choose an expert beyond the last, so that a token has one less.
        counts = chosen.bincount(minlength=self._experts.num_experts)[: self._experts.num_experts]
        order = chosen.argsort()[: int(counts.sum())]
        if not len(order):
            return torch.zeros_like(hidden_states)
        rows = self._computed(hidden_states[order // top_k_index.shape[1]], counts)
        weighted = rows * top_k_weights.flatten()[order].unsqueeze(1)
        outputs = weighted.new_zeros(len(chosen), weighted.shape[1]).index_copy_(0, order, weighted)
        total: Tensor = outputs.view(*top_k_index.shape, -1).sum(1)
        return total.to(hidden_states.dtype)

    def _computed(self, rows: Tensor, counts: Tensor) -> Tensor:
        activate = self._experts._apply_gate if self._experts.has_gate else self._experts.act_fn
        outputs: Tensor = self._down(activate(self._up(rows, counts)), counts)
        return outputs


def pack_experts(model: nn.Module, packer: Packer) -> None:
    """Replaces the experts whose weights are in blocks, and those of the usual form that are quantised."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_in_blocks(child) and not has_grouped_products():
                take_values(child)
            if _is_replaced(child, packer):
                up, down = (_packed(child, weights, packer) for weights in _names(child))
                setattr(parent, name, QuantisedExperts(child, up, down).eval())


def expert_weight_count(model: nn.Module, packer: Packer) -> int:
    """Returns the number of weights that `pack_experts` would replace."""
    experts = [module for module in model.modules() if _is_replaced(module, packer)]
    return sum(_count(getattr(module, name)) for module in experts for name in _names(module))


def keep_blocks(experts: Any, weights: Mapping[str, BlockExperts]) -> None:  # each family has its own class
    """Replaces the weights of transformers' experts with those in blocks, by their names."""
    for name, stored in weights.items():
        delattr(experts, name)
        setattr(experts, name, stored)
    experts.config._experts_implementation = "eager"  # the one that takes one expert after the other


def take_values(experts: Any) -> None:
    """Gives experts in blocks the values of their weights as parameters."""
    for name in _names(experts):
        values = getattr(experts, name).values()
        delattr(experts, name)
        setattr(experts, name, nn.Parameter(values, requires_grad=False))


def _is_replaced(module: Any, packer: Packer) -> bool:
    if _is_in_blocks(module):
        return has_grouped_products()
    return packer.make_experts is not None and _has_usual_form(module, packer.dtype)


def _is_in_blocks(module: Any) -> bool:
    return all(hasattr(module, fact) for fact in _FACTS) and all(
        isinstance(getattr(module, name, None), BlockExperts) for name in _names(module)
    )


def _has_usual_form(module: Any, dtype: torch.dtype) -> bool:
    """Returns whether the packer can replace the module: experts, no wider than the model's dtype."""
    if not all(hasattr(module, fact) for fact in _FACTS) or module.has_post_expert_norm:
        return False
    weights = [getattr(module, name, None) for name in _names(module)]
    return all(
        isinstance(weight, nn.Parameter)
        and weight.dim() == 3
        and len(weight) == module.num_experts
        and weight.element_size() <= dtype.itemsize
        for weight in weights
    )


def _names(experts: Any) -> tuple[str, str]:
    """Returns the names of the weights before and after the activation."""
    return ("gate_up_proj" if experts.has_gate else "up_proj", "down_proj")


def _packed(experts: Any, name: str, packer: Packer) -> nn.Module:
    """Returns the product of the weights with this name, which the module loses."""
    stored = getattr(experts, name)
    bias = getattr(experts, f"{name}_bias").detach() if experts.has_bias else None
    made = _product(stored, bias, experts.is_transposed, packer)
    count = _count(stored)
    delattr(experts, name)
    del stored  # before freed memory is returned
    packer.on_packed(count)
    return made


def _product(
    stored: BlockExperts | Tensor, bias: Tensor | None, is_transposed: bool, packer: Packer
) -> nn.Module:
    if isinstance(stored, BlockExperts):
        return block_experts(stored, bias, packer.dtype)
    assert packer.make_experts is not None
    weights = stored.detach()
    return packer.make_experts(weights.transpose(1, 2) if is_transposed else weights, bias)


def _count(stored: BlockExperts | Tensor) -> int:
    if isinstance(stored, BlockExperts):
        return sum(part.count for part in stored.parts)
    return stored.numel()
