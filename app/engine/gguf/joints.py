"""Weights that transformers keeps in one parameter and a GGUF file in several tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from app.engine.gguf.weights import Weight
from app.engine.layers.blocks import BlockExperts
from app.engine.layers.grouped import ParallelLinears
from app.engine.layers.mixtures.experts import keep_blocks

_Shape = tuple[int, ...]
_EXPERT_LAYERS = ("gate_proj", "up_proj", "down_proj")


class JointTensors(Protocol):
    """Several tensors that are put into the model at once."""

    @property
    def shapes(self) -> Mapping[str, _Shape]:
        """The shapes of the tensors, under the names that `to_transformers` gives them."""
        ...

    @property
    def replaced(self) -> tuple[str, ...]:
        """The names of transformers' parameters that they make up."""
        ...

    def place(self, weights: Mapping[str, Weight], *, keeps_blocks: bool) -> None:
        """Puts the tensors into the model."""
        ...


class ExpertsJoint:
    """The experts of one layer, which transformers keeps in two parameters: gate and up, and down.

    Those of gpt-oss are transposed, with biases, and with the rows of gate and up by turns.
    """

    def __init__(self, experts: Any, path: str) -> None:  # a class of each architecture
        self._experts, self._path = experts, path
        self.replaced = tuple(f"{path}.{name}" for name, _ in experts.named_parameters())
        count, *sizes = experts.down_proj.shape
        inner, width = sizes if experts.is_transposed else reversed(sizes)
        up, down = (count, inner, width), (count, width, inner)
        shapes = {"gate_proj": up, "up_proj": up, "down_proj": down}
        self.shapes: dict[str, _Shape] = {f"{path}.{name}.weight": shape for name, shape in shapes.items()}
        if experts.has_bias:
            self.shapes |= {f"{path}.{name}.bias": shape[:2] for name, shape in shapes.items()}

    def place(self, weights: Mapping[str, Weight], *, keeps_blocks: bool) -> None:
        matrices = self._parts(weights, "weight")
        if keeps_blocks and all(part.is_quantised for parts in matrices.values() for part in parts):
            keep_blocks(self._experts, {name: self._blocks(parts) for name, parts in matrices.items()})
        else:
            for name, parts in matrices.items():
                self._set_values(name, parts)
        if self._experts.has_bias:
            for name, parts in self._parts(weights, "bias").items():
                self._set_values(f"{name}_bias", parts)

    def _parts(self, weights: Mapping[str, Weight], kind: str) -> dict[str, list[Weight]]:
        """Returns the tensors that make up each parameter."""
        gate, up, down = (weights[f"{self._path}.{name}.{kind}"] for name in _EXPERT_LAYERS)
        return {"gate_up_proj": [gate, up], "down_proj": [down]}

    def _blocks(self, parts: Sequence[Weight]) -> BlockExperts:
        experts = self._experts
        return BlockExperts(
            tuple(part.in_blocks() for part in parts),
            experts.num_experts,
            parts[0].dtype,
            not experts.is_concatenated,
            experts.is_transposed,
        )

    def _set_values(self, name: str, parts: Sequence[Weight]) -> None:
        values = [part.values() for part in parts]
        joined = (
            torch.cat(values, 1) if self._experts.is_concatenated else torch.stack(values, 2).flatten(1, 2)
        )
        if self._experts.is_transposed and joined.dim() == 3:
            joined = joined.transpose(1, 2).contiguous()
        setattr(self._experts, name, nn.Parameter(joined, requires_grad=False))


class HalvesJoint:
    """A linear layer whose outputs are those of gate and up."""

    def __init__(self, parent: nn.Module, attribute: str, path: str) -> None:
        layer: Any = getattr(parent, attribute)
        self._parent, self._attribute = parent, attribute
        shape = (layer.out_features // 2, layer.in_features)
        self._names = tuple(f"{path}.{name}.weight" for name in ("gate_proj", "up_proj"))
        self.shapes = dict.fromkeys(self._names, shape)
        self.replaced = (f"{path}.{attribute}.weight",)

    def place(self, weights: Mapping[str, Weight], *, keeps_blocks: bool) -> None:
        halves = [weights[name] for name in self._names]
        if keeps_blocks and any(half.is_quantised for half in halves):
            joined: nn.Module = ParallelLinears([half.linear(None) for half in halves])
            setattr(self._parent, self._attribute, joined)
            return
        values = torch.cat([half.values() for half in halves])
        getattr(self._parent, self._attribute).weight = nn.Parameter(values, requires_grad=False)


def joints_of(model: PreTrainedModel) -> Iterator[JointTensors]:
    """Yields the joints of the model."""
    for path, module in model.named_modules():
        if type(module).__name__.endswith("Experts"):
            yield ExpertsJoint(module, path)
        elif path.endswith(".shared_mlp") and hasattr(module, "input_linear"):
            yield HalvesJoint(module, "input_linear", path)
