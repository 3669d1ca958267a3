"""Builds transformers' model around the tensors of a GGUF file, which stay mapped in their blocks."""

import re
from collections.abc import Callable, Mapping
from itertools import chain
from math import prod
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from app.core.errors import ModelUnsupported
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import GGUFTensor, corrupt
from app.engine.gguf.joints import JointTensors, joints_of
from app.engine.gguf.stored_form import StoredForm
from app.engine.gguf.tensor_names import EMBEDDING, ROPE_FACTORS, to_transformers
from app.engine.gguf.weights import Weight
from app.engine.layers.blocks import BlockEmbedding

_KEYS_AND_VALUES = re.compile(r"model\.layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm)\.")
_Shape = tuple[int, ...]
_READ_DIRECTLY = "dt_proj"  # a small layer whose weight the state space around it reads


def build_model(
    file: GGUFFile,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    *,
    keeps_blocks: bool,
    report: Callable[[float], None],
) -> PreTrainedModel:
    """Returns the model, which computes in `dtype`, on the CPU. `report` is called with the share done.

    With `keeps_blocks`, quantised matrices become BlockLinear and BlockEmbedding; otherwise they are
    converted.

    Raises:
        ModelCorrupt: a tensor is missing, or does not have the shape that the metadata says.
        ModelUnsupported: the file has a tensor that the model lacks.
    """
    model = _outline(config, dtype)
    form = StoredForm(file.architecture, config)
    named = _named(file, config)
    builder = _Builder(model, keeps_blocks)
    _compare(builder.shapes, named, config)
    for done, (name, tensor) in enumerate(named.items(), start=1):
        builder.place(Weight(name, tensor, form, dtype))
        report(done / len(named))
    if config.tie_word_embeddings:
        builder.place(Weight("lm_head.weight", file.tensors[EMBEDDING], form, dtype))
    _restore_buffers(model, config, _factors(file))
    _refuse_missing(model)
    model.train(False)
    return model


def _factors(file: GGUFFile) -> GGUFTensor | None:
    """Returns the divisors of the rotary frequencies. Those of Gemma 4 are in its configuration."""
    return None if file.architecture == "gemma4" else file.tensors.get(ROPE_FACTORS)


def _outline(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation="eager"
        )
    assert isinstance(model, PreTrainedModel)
    return model


def _named(file: GGUFFile, config: PreTrainedConfig) -> dict[str, GGUFTensor]:
    layers = int(config.num_hidden_layers)
    pairs = [
        (to_transformers(name, file.architecture, layers), tensor) for name, tensor in file.tensors.items()
    ]
    pairs = [(name, tensor) for name, tensor in pairs if not _is_unused(name, config)]
    names = [name for name, _ in pairs if name is not None]
    if len(set(names)) < len(names):
        raise corrupt("it has two tensors for one weight")
    return {name: tensor for name, tensor in pairs if name is not None}


def _is_unused(name: str | None, config: PreTrainedConfig) -> bool:
    """Returns whether the weight makes keys or values in a layer of Gemma 4 that takes those of another."""
    shared = int(getattr(config, "num_kv_shared_layers", 0) or 0)
    found = _KEYS_AND_VALUES.match(name or "")
    return found is not None and int(found[1]) >= config.num_hidden_layers - shared


def _compare(wanted: Mapping[str, _Shape], named: Mapping[str, GGUFTensor], config: PreTrainedConfig) -> None:
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - named.keys() - tied):
        raise corrupt(f"{len(missing)} weights are missing, such as {missing[0]}")
    for name, tensor in named.items():
        if name not in wanted:
            raise ModelUnsupported(f"the GGUF file has a tensor that the model lacks: {tensor.name[:80]!r}")
        if not _fits(tensor.shape, wanted[name]):
            raise corrupt(f"{tensor.name[:80]} is {list(tensor.shape)}, but must be {list(wanted[name])}")


def _fits(stored: _Shape, wanted: _Shape) -> bool:
    """Returns whether the shapes are the same but for dimensions of size 1, or for how a vector is cut."""
    if len(wanted) == 1:
        return prod(stored) == wanted[0]
    return [size for size in stored if size > 1] == [size for size in wanted if size > 1]


class _Builder:
    """Places one tensor after the other in the model."""

    def __init__(self, model: PreTrainedModel, keeps_blocks: bool) -> None:
        self._model = model
        self._keeps_blocks = keeps_blocks
        self._joints: dict[str, JointTensors] = {}  # by the names of their tensors
        self._waiting: dict[JointTensors, dict[str, Weight]] = {}  # for others of theirs
        self.shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for name in [name for name in self.shapes if self._is_transposed(name)]:
            self.shapes[name] = self.shapes[name][::-1]
        for joint in joints_of(model):
            for name in joint.replaced:
                del self.shapes[name]
            self.shapes |= joint.shapes
            self._joints |= dict.fromkeys(joint.shapes, joint)

    def place(self, weight: Weight) -> None:
        joint = self._joints.get(weight.name)
        if joint is None:
            self._place(weight)
            return
        waiting = self._waiting.setdefault(joint, {})
        waiting[weight.name] = weight
        if waiting.keys() == joint.shapes.keys():
            joint.place(self._waiting.pop(joint), keeps_blocks=self._keeps_blocks)

    def _place(self, weight: Weight) -> None:
        path, _, kind = weight.name.rpartition(".")
        module = self._model.get_submodule(path)
        is_kept = self._keeps_blocks and weight.is_quantised and kind == "weight"
        if is_kept and isinstance(module, nn.Embedding):
            scale = float(getattr(module, "scalar_embed_scale", 1.0))
            self._replace(path, BlockEmbedding(weight.in_blocks(), weight.dtype, scale))
        elif is_kept and type(module) in (nn.Linear, Conv1D) and not path.endswith(_READ_DIRECTLY):
            self._replace(path, weight.linear(module.bias))  # type: ignore[arg-type]  # both have one or None
        else:
            self._set_values(module, kind, weight)

    def _replace(self, path: str, layer: nn.Module) -> None:
        parent, _, attribute = path.rpartition(".")
        setattr(self._model.get_submodule(parent), attribute, layer)

    def _set_values(self, module: nn.Module, kind: str, weight: Weight) -> None:
        values, old = weight.values(), getattr(module, kind)
        if self._is_transposed(weight.name):
            values = values.t().contiguous()
        if isinstance(old, nn.Parameter):
            setattr(module, kind, nn.Parameter(values.view(old.shape), requires_grad=False))
        else:
            setattr(module, kind, values.view(old.shape).to(old.dtype))

    def _is_transposed(self, name: str) -> bool:
        path, _, kind = name.rpartition(".")
        return kind == "weight" and type(self._model.get_submodule(path)) is Conv1D


def _refuse_missing(model: PreTrainedModel) -> None:
    """Raises ModelUnsupported if the model has values that are neither in the file nor computed here."""
    values = chain(model.named_parameters(), model.named_buffers())
    missing = next((name for name, value in values if value.is_meta), None)
    if missing is not None:
        raise ModelUnsupported(f"{type(model).__name__} needs values that GGUF files lack: {missing}")


def _restore_buffers(model: PreTrainedModel, config: PreTrainedConfig, factors: GGUFTensor | None) -> None:
    """Computes the tensors that are not in the file, which the outline has without values."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__.endswith("RotaryEmbedding"):
                setattr(parent, name, _rotary(child, config, factors))
            elif (scale := getattr(child, "scalar_embed_scale", None)) is not None:
                child.register_buffer("embed_scale", torch.tensor(scale), persistent=False)


def _rotary(outline: nn.Module, config: PreTrainedConfig, factors: GGUFTensor | None) -> nn.Module:
    rotary: Any = type(outline)(config)
    if factors is not None:
        divisors = torch.from_numpy(factors.data.reshape(-1)).view(torch.float32)
        if factors.kind != GGMLQuantizationType.F32 or divisors.shape != rotary.inv_freq.shape:
            raise corrupt(f"{ROPE_FACTORS} does not fit the rotary positions")
        rotary.inv_freq = rotary.inv_freq / divisors
        rotary.original_inv_freq = rotary.inv_freq
    made: nn.Module = rotary
    return made
