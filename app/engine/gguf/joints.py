"""Weights that transformers keeps in one parameter and a GGUF file in several tensors."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.engine.gguf.experts import Expert, Experts, gating_of
from app.engine.gguf.weights import Weight
from app.engine.layers.grouped import ParallelLinears

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
    """The experts of one layer, whose parameters are `[experts, outputs, inputs]`, with gate before up."""

    def __init__(self, parent: nn.Module, attribute: str, path: str) -> None:
        self._experts: Any = getattr(parent, attribute)  # a class of each architecture
        self._parent, self._attribute, self._path = parent, attribute, path
        self.replaced = tuple(f"{path}.{name}" for name, _ in self._experts.named_parameters())
        width, inner = self._widths()
        count = len(self._experts.down_proj)
        self.shapes: dict[str, _Shape] = {
            f"{path}.gate_proj.weight": (count, inner, width),
            f"{path}.up_proj.weight": (count, inner, width),
            f"{path}.down_proj.weight": (count, width, inner),
        }

    def place(self, weights: Mapping[str, Weight], *, keeps_blocks: bool) -> None:
        found = {name.removeprefix(f"{self._path}."): weight for name, weight in weights.items()}
        if keeps_blocks and any(weight.is_quantised for weight in found.values()):
            setattr(self._parent, self._attribute, self._separate(found))
        else:
            for name, values in self._joined(
                {name: weight.values() for name, weight in found.items()}
            ).items():
                setattr(self._experts, name, nn.Parameter(values, requires_grad=False))

    def _widths(self) -> tuple[int, int]:
        """Returns the width of the model, and that of an expert."""
        _, width, inner = self._experts.down_proj.shape
        return width, inner

    def _joined(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the parameters that the parts make up."""
        gate_up = torch.cat((parts["gate_proj.weight"], parts["up_proj.weight"]), dim=1)
        return {"gate_up_proj": gate_up, "down_proj": parts["down_proj.weight"]}

    def _separate(self, weights: Mapping[str, Weight]) -> Experts:
        biases = {name: weights.get(f"{name}.bias") for name in _EXPERT_LAYERS}
        gates, ups, downs = (
            weights[f"{name}.weight"].linears(None if bias is None else bias.values())
            for name, bias in biases.items()
        )
        gated = gating_of(self._experts)
        return Experts([Expert(*layers, gated) for layers in zip(gates, ups, downs, strict=True)])


class TransposedExpertsJoint(ExpertsJoint):
    """The experts of gpt-oss: transposed, with biases, and with the rows of gate and up by turns."""

    def __init__(self, parent: nn.Module, attribute: str, path: str) -> None:
        super().__init__(parent, attribute, path)
        self.shapes |= {name.replace(".weight", ".bias"): shape[:2] for name, shape in self.shapes.items()}

    def _widths(self) -> tuple[int, int]:
        _, inner, width = self._experts.down_proj.shape
        return width, inner

    def _joined(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = _alternating(parts["gate_proj.weight"], parts["up_proj.weight"])
        return {
            "gate_up_proj": weights.transpose(1, 2).contiguous(),
            "gate_up_proj_bias": _alternating(parts["gate_proj.bias"], parts["up_proj.bias"]),
            "down_proj": parts["down_proj.weight"].transpose(1, 2).contiguous(),
            "down_proj_bias": parts["down_proj.bias"],
        }


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
            parent, _, attribute = path.rpartition(".")
            is_transposed = hasattr(module, "down_proj_bias")
            joint = TransposedExpertsJoint if is_transposed else ExpertsJoint
            yield joint(model.get_submodule(parent), attribute, path)
        elif path.endswith(".shared_mlp") and hasattr(module, "input_linear"):
            yield HalvesJoint(module, "input_linear", path)


def _alternating(gate: Tensor, up: Tensor) -> Tensor:
    """Returns the rows of both, one after the other by turns: `[experts, 2 * rows, ...]`."""
    return torch.stack((gate, up), dim=2).flatten(1, 2)
