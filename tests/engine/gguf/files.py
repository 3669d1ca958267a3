"""Writes small GGUF files from tiny models with random weights, as llama.cpp's converter would."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    Starcoder2Config,
)

from tests.engine.tiny import TEMPLATE, make_tokenizer

VOCABULARY = 320
_SHAPE: dict[str, Any] = {  # arguments that all these configurations take
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
}
_GEMMA: dict[str, Any] = {**_SHAPE, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "qwen2": Qwen2Config(**_SHAPE),
    "qwen3": Qwen3Config(**_SHAPE, head_dim=32),
    "gemma2": Gemma2Config(**_GEMMA, layer_types=["sliding_attention", "full_attention"]),
    "gemma3": Gemma3TextConfig(**_GEMMA, layer_types=["sliding_attention", "sliding_attention"]),
    "granite": GraniteConfig(
        **_SHAPE,
        attention_multiplier=0.5,
        embedding_multiplier=3.0,
        residual_multiplier=0.7,
        logits_scaling=2.0,
    ),
    "olmo2": Olmo2Config(**_SHAPE),
    "phi3": Phi3Config(
        **_SHAPE,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        pad_token_id=0,
        sliding_window=8,
    ),
    "smollm3": SmolLM3Config(**(_SHAPE | {"num_hidden_layers": 4}), pad_token_id=0),
    "starcoder2": Starcoder2Config(**_SHAPE, norm_epsilon=1e-4),
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
_NORMS = {"post_attention_layernorm": "ffn_norm"}
_GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PERMUTED = ("llama", "granite", "smollm3")


def tiny_model(
    architecture: str,
    *,
    is_tied: bool = False,
    has_bias: bool = False,
    rope_parameters: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Returns a model in float32 with random weights, also in its norms and biases."""
    config = copy.deepcopy(CONFIGS[architecture])
    config.tie_word_embeddings = is_tied
    if has_bias:
        config.attention_bias = True
    if rope_parameters is not None:
        config.rope_parameters = rope_parameters
        if hasattr(config, "original_max_position_embeddings"):
            config.original_max_position_embeddings = rope_parameters["original_max_position_embeddings"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                value.add_(0.1 * torch.randn_like(value))
    model.train(False)
    return model


def write(
    path: Path,
    model: PreTrainedModel,
    architecture: str,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    tokenizer: PreTrainedTokenizerFast | None = None,
    rope_factors: Sequence[float] = (),
    tensors_in_a_file: int = 0,
    is_ollamas: bool = False,
    sliding_window: int = 0,
) -> Path:
    """Writes the model with its matrices in blocks of that kind. Returns `path`.

    With `is_ollamas`, it is as Ollama writes Gemma 3: with the part for images, and with other names for some
    values and without others.
    With `tensors_in_a_file`, it is split into files of so many tensors, whose names are those of llama.cpp.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_in_a_file)
    _add_sizes(writer, model.config)
    if sliding_window:
        writer.add_sliding_window(sliding_window)
    if is_ollamas:
        _add_ollamas_names(writer)
    else:
        _add_usual_names(writer, model.config)
    add_vocabulary(writer, make_tokenizer() if tokenizer is None else tokenizer, VOCABULARY + is_ollamas)
    for name, value in model.named_parameters():
        array = _as_stored(name, value.detach().numpy(), model.config, architecture)
        is_matrix = array.ndim == 2
        stored = gguf.quants.quantize(array, kind) if is_matrix else array
        writer.add_tensor(gguf_name(name, architecture), stored, raw_dtype=kind if is_matrix else None)
    if is_ollamas:
        for name in ("v.blk.0.attn_q.weight", "mm.mm_input_projection.weight"):
            writer.add_tensor(name, np.zeros((32, 32), dtype=np.float32))
    if rope_factors:
        writer.add_tensor("rope_freqs.weight", np.array(rope_factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str, architecture: str) -> str:
    """Returns the name of transformers' parameter in a GGUF file."""
    has_norms_behind = architecture in ("gemma2", "gemma3", "olmo2")
    names = {**_NAMES, **(_GEMMA_NORMS if has_norms_behind else _NORMS)}
    path, _, kind = name.rpartition(".")
    if not path.startswith("model.layers."):
        return f"{names[path]}.{kind}"
    _, _, layer, part = path.split(".", 3)
    return f"blk.{layer}.{names[part]}.{kind}"


def _as_stored(name: str, array: np.ndarray, config: PreTrainedConfig, architecture: str) -> np.ndarray:
    """Returns the values in llama.cpp's order: it pairs neighbours in the rotary positions of Llama."""
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(name.split(".")[-2])
    if architecture not in _PERMUTED or count is None:
        return array
    halves = array.reshape(count, 2, len(array) // count // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _add_sizes(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // 4)
    if isinstance(config, Gemma2Config | Gemma3TextConfig):
        writer.add_sliding_window(_GEMMA["sliding_window"])
    if isinstance(config, Phi3Config):
        writer.add_sliding_window(config.sliding_window or 0)
        rope: Any = config.rope_parameters  # a dict of transformers
        head_dim = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
        _add_longrope(writer, rope)
    if isinstance(config, GraniteConfig):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _add_longrope(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    if rope["rope_type"] != "longrope":
        return
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    for length in ("short", "long"):
        factors = np.array(rope[f"{length}_factor"], dtype=np.float32)
        writer.add_tensor(f"rope_factors_{length}.weight", factors)


def _add_usual_names(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    rope = config.rope_parameters
    if isinstance(config, Starcoder2Config):
        writer.add_layer_norm_eps(config.norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_chat_template(TEMPLATE)


def _add_ollamas_names(writer: gguf.GGUFWriter) -> None:
    writer.add_float32("gemma3.rope.global.freq_base", 1_000_000.0)
    writer.add_float32("gemma3.rope.local.freq_base", 10_000.0)


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    tokens += [f"[unused{i}]" for i in range(size - len(tokens))]
    special = set(tokenizer.get_added_vocab())
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(_merges(tokenizer))
    writer.add_bos_token_id(ids["<|bos|>"])
    writer.add_eos_token_id(ids["<|end|>"])


def _merges(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges]
