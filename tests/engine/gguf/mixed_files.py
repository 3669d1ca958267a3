"""Writes GGUF files of tiny hybrids and mixtures of experts, as llama.cpp's converter would.

Names come from the gguf package's own table, with which that converter works.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType
from transformers import (
    Gemma4TextConfig,
    GPT2Config,
    GptOssConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from tests.engine.gguf.files import VOCABULARY, add_vocabulary
from tests.engine.gguf.mixed_facts import facts_of
from tests.engine.tiny import TEMPLATE, make_tokenizer

Array = np.ndarray[Any, Any]  # of any shape
Named = Iterator[tuple[str, Array]]

_NEVER_QUANTISED = (  # by llama.cpp
    *("norm.weight", "scale.weight", "rope_freqs.weight", "conv.weight", "conv1d.weight"),
    *("inp.weight", "inp_shexp.weight", "position_embd.weight"),
)


def write(
    path: Path,
    model: PreTrainedModel,
    case: str,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    is_rounded: bool = False,
    facts: Mapping[str, Any] | None = None,
    extra: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Writes the model with its matrices in blocks of that kind. Returns `path`.

    With `is_rounded`, the matrices have the values of those blocks in float32. `facts` replace metadata.
    `extra` has the shapes of more tensors, which are zero.
    """
    architecture = case.split()[0]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_chat_template(TEMPLATE)
    for key, value in ({**facts_of(model.config, architecture), **(facts or {})}).items():
        _add(writer, f"{architecture}.{key}", value)
    add_vocabulary(writer, make_tokenizer(), VOCABULARY)
    for name, array in stored(model, architecture):
        is_matrix = array.ndim > 1 and name.endswith("weight") and not name.endswith(_NEVER_QUANTISED)
        blocks = gguf.quants.quantize(array, kind) if is_matrix else None
        if blocks is None:
            writer.add_tensor(name, array)
        elif is_rounded:
            writer.add_tensor(name, gguf.quants.dequantize(blocks, kind))
        else:
            writer.add_tensor(name, blocks, raw_dtype=kind)
    for name, shape in (extra or {}).items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(model: PreTrainedModel, architecture: str) -> Named:
    """Yields the tensors of the model under their names in a GGUF file, in llama.cpp's order and form."""
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    if isinstance(model.config, Gemma4TextConfig):  # a quarter of a head rotates, where the context is whole
        yield "rope_freqs.weight", np.array([1.0] * 4 + [1e30] * 12, dtype=np.float32)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for separate, array in _separate(name, value.numpy(), model.config):
            found = table.get_name(separate, try_suffixes=(".weight", ".bias"))
            assert found is not None, separate
            yield found, np.ascontiguousarray(_as_stored(separate, array, model.config, architecture))


def _separate(name: str, array: Array, config: PreTrainedConfig) -> Named:
    """Yields the parts of a parameter that llama.cpp stores separately, under the names of checkpoints."""
    base, _, kind = name.rpartition(".")
    base = base.replace("block_sparse_moe.experts", "mlp.experts")
    is_gpt_oss = isinstance(config, GptOssConfig)
    if kind == "gate_up_proj":
        array = array.swapaxes(1, 2) if is_gpt_oss else array
        gate, up = (array[:, ::2], array[:, 1::2]) if is_gpt_oss else np.split(array, 2, axis=1)
        yield from ((f"{base}.gate_proj.weight", gate), (f"{base}.up_proj.weight", up))
    elif kind == "gate_up_proj_bias":
        yield from ((f"{base}.gate_proj.bias", array[:, ::2]), (f"{base}.up_proj.bias", array[:, 1::2]))
    elif kind == "down_proj":
        yield f"{base}.down_proj.weight", array.swapaxes(1, 2) if is_gpt_oss else array
    elif name.endswith("shared_mlp.input_linear.weight"):
        yield from zip(_granite_mlp(base, config), np.split(array, 2), strict=True)
    else:
        yield _checkpoint_name(name, config), array


def _granite_mlp(base: str, config: PreTrainedConfig) -> tuple[str, str]:
    layer = base.split(".")[2]
    mlp = f"model.layers.{layer}.mlp" + (".shared_expert" if config.num_local_experts else "")
    return f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"


def _checkpoint_name(name: str, config: PreTrainedConfig) -> str:
    """Returns the name of which the gguf package's table knows a prefix."""
    if name.endswith(("sinks", "layer_scalar")):
        return f"{name}.weight"
    name = name.replace("dt_bias", "dt_proj.bias").replace("expert_bias", "expert_bias.bias")
    name = name.replace("down_proj_bias", "down_proj.bias")
    if "shared_mlp.output_linear" in name:
        mlp = "mlp.shared_expert" if config.num_local_experts else "mlp"
        name = name.replace("shared_mlp.output_linear", f"{mlp}.down_proj")
    return name.replace("block_sparse_moe.router.", "block_sparse_moe.router.layer.")


def _as_stored(name: str, array: Array, config: PreTrainedConfig, architecture: str) -> Array:
    module = name.split(".")[-2] if name.endswith(("weight", "bias")) else name.split(".")[-1]
    if name.endswith("A_log"):
        array = -np.exp(array)
    if "conv" in module and array.ndim == 3:
        array = array.squeeze(1)
    if isinstance(config, GPT2Config) and module.startswith("c_"):
        return array.T if array.ndim == 2 else array
    if architecture.startswith("granite"):
        return _granite_form(name, module, array, config)
    if architecture.startswith("qwen35"):
        return _delta_net_form(name, module, array, config)
    return array


def _granite_form(name: str, module: str, array: Array, config: PreTrainedConfig) -> Array:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module)
    if heads is not None:  # neighbours make a pair of a rotary position
        return array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    if module in ("A_log", "D"):
        return array.reshape(-1, 1)
    return array.reshape(config.mamba_n_groups, -1) if name.endswith("mamba.norm.weight") else array


def _delta_net_form(name: str, module: str, array: Array, config: PreTrainedConfig) -> Array:
    """Adds 1 to norms, and puts the first value head of each key before the second ones."""
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return array + 1
    if "linear_attn" not in name or module == "norm":
        return array
    keys = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    if module in ("in_proj_qkv", "conv1d"):
        return np.concatenate((array[:keys], _tiled(array[keys:], config)))
    return _tiled(array.T, config).T if module == "out_proj" else _tiled(array, config)


def _tiled(array: Array, config: PreTrainedConfig) -> Array:
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    heads = array.reshape(keys, values // keys, -1)
    return heads.swapaxes(0, 1).reshape(array.shape)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:  # a number, a text or a list of numbers
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)
