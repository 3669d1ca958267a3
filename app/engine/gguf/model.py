"""Builds transformers' model around the tensors of a GGUF file, which stay mapped in their blocks."""

from collections.abc import Callable
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from app.core.errors import ModelUnsupported
from app.engine.gguf.config import EMBEDDING
from app.engine.gguf.file import GGUFFile, GGUFTensor, corrupt
from app.engine.gguf.tensor_names import ROPE_FACTORS, to_transformers
from app.engine.layers.blocks import BlockEmbedding, BlockLinear, BlockWeight

_FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
_PERMUTED = ("llama", "granite", "smollm3")  # whose rotary positions llama.cpp stores in another order


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
    wanted = {name: tuple(value.shape) for name, value in model.named_parameters()}
    named = _named(file)
    _compare(wanted, named, config)
    builder = _Builder(model, config, file.architecture, dtype, keeps_blocks)
    for done, (name, tensor) in enumerate(named.items(), start=1):
        builder.place(name, tensor)
        report(done / len(named))
    if config.tie_word_embeddings:
        builder.place("lm_head.weight", file.tensors[EMBEDDING])
    _restore_buffers(model, config, file.tensors.get(ROPE_FACTORS))
    model.train(False)
    return model


def _outline(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation="eager"
        )
    assert isinstance(model, PreTrainedModel)
    return model


def _named(file: GGUFFile) -> dict[str, GGUFTensor]:
    pairs = [(to_transformers(name, file.architecture), tensor) for name, tensor in file.tensors.items()]
    return {name: tensor for name, tensor in pairs if name is not None}


def _compare(
    wanted: dict[str, tuple[int, ...]], named: dict[str, GGUFTensor], config: PreTrainedConfig
) -> None:
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - named.keys() - tied):
        raise corrupt(f"{len(missing)} weights are missing, such as {missing[0]}")
    for name, tensor in named.items():
        if name not in wanted:
            raise ModelUnsupported(f"the GGUF file has a tensor that the model lacks: {tensor.name[:80]!r}")
        if tensor.shape != wanted[name]:
            raise corrupt(f"{tensor.name[:80]} is {list(tensor.shape)}, but must be {list(wanted[name])}")


class _Builder:
    """Places one tensor after the other in the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: PreTrainedConfig,
        architecture: str,
        dtype: torch.dtype,
        keeps_blocks: bool,
    ) -> None:
        self._model = model
        self._heads = {
            "q_proj": int(config.num_attention_heads),  # all of these have both
            "k_proj": int(config.num_key_value_heads),
        }
        self._is_permuted = architecture in _PERMUTED
        self._is_shifted = architecture.startswith("gemma")  # norms are stored with 1 added
        self._dtype = dtype
        self._keeps_blocks = keeps_blocks

    def place(self, name: str, tensor: GGUFTensor) -> None:
        path, _, kind = name.rpartition(".")
        data = self._in_order(path, _to_torch(tensor))
        if tensor.kind in _FLOATS:
            self._set_parameter(path, kind, data.view(_FLOATS[tensor.kind]).view(tensor.shape))
            return
        if len(tensor.shape) != 2:
            raise ModelUnsupported(f"{tensor.name[:80]} is quantised, though it is not a matrix")
        stored = BlockWeight(tensor.kind, data, tensor.shape[1])
        if self._keeps_blocks:
            self._set_blocks(path, stored)
        else:
            self._set_parameter(path, kind, stored.values(self._dtype))

    def _in_order(self, path: str, rows: Tensor) -> Tensor:
        """Returns the rows in transformers' order. llama.cpp pairs neighbours in Llama's rotary positions."""
        heads = self._heads.get(path.rpartition(".")[2])
        if not self._is_permuted or heads is None:
            return rows
        pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(rows.shape)

    def _set_parameter(self, path: str, kind: str, values: Tensor) -> None:
        values = values.to(self._dtype)
        if self._is_shifted and path.endswith("norm"):
            values = values - 1
        setattr(self._model.get_submodule(path), kind, nn.Parameter(values, requires_grad=False))

    def _set_blocks(self, path: str, stored: BlockWeight) -> None:
        old: Any = self._model.get_submodule(path)  # a linear layer or an embedding
        parent, _, attribute = path.rpartition(".")
        if isinstance(old, nn.Embedding):
            scale = float(getattr(old, "scalar_embed_scale", 1.0))
            new: nn.Module = BlockEmbedding(stored, self._dtype, scale)
        else:
            new = BlockLinear(stored, old.bias)
        setattr(self._model.get_submodule(parent), attribute, new)


def _to_torch(tensor: GGUFTensor) -> Tensor:
    """Returns the tensor's bytes, `[outputs, bytes of a row]`, still mapped."""
    return torch.from_numpy(tensor.data.reshape(-1, tensor.data.shape[-1]))


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
        divisors = _to_torch(factors).view(torch.float32).flatten()
        if factors.kind != GGMLQuantizationType.F32 or divisors.shape != rotary.inv_freq.shape:
            raise corrupt(f"{ROPE_FACTORS} does not fit the rotary positions")
        rotary.inv_freq = rotary.inv_freq / divisors
        rotary.original_inv_freq = rotary.inv_freq
    made: nn.Module = rotary
    return made
