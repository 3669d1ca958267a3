"""Makes transformers' configuration of a model from the metadata of a GGUF file."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from app.core.errors import ModelUnsupported
from app.engine.gguf.file import GGUFFile, corrupt
from app.engine.loading.folder_check import library_errors_as

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_NO_CHOICE = "Choose a GGUF file of Llama, Mistral, SmolLM2, Qwen2, Qwen3, Gemma 2 or Gemma 3."
# Gemma 3, whose values Ollama's files name otherwise or leave out.
_LOCAL_ROPE_BASE, _GLOBAL_ROPE_BASE = 10_000.0, 1_000_000.0  # with a sliding window, and without
_GEMMA3_EPSILON = 1e-6
_GEMMA3_LONG_CONTEXT, _GEMMA3_FACTOR = 131_072, 8.0  # all but the smallest model stretch their positions
_GEMMA3_PATTERN = 6  # every sixth layer sees the whole context
_LARGEST_GEMMA2_LAYERS, _LARGEST_GEMMA3_LAYERS = 46, 62  # the 27B models scale their attention differently

_MOST_LAYERS = 1000  # the deepest models have 126

Fields = dict[str, Any]  # Any: arguments of transformers' configurations


def config_of(file: GGUFFile) -> PreTrainedConfig:
    """Returns the configuration.

    Raises:
        ModelUnsupported: the engine does not read this architecture from GGUF files.
        ModelCorrupt: a value is missing or makes no sense.
    """
    architecture = file.architecture
    make = _CONFIGS.get(architecture)
    if make is None:
        raise ModelUnsupported(
            f"GGUF files of the architecture {architecture[:40]!r} are not supported", hint=_NO_CHOICE
        )
    if file.metadata.get(f"{architecture}.expert_count", 0):
        raise ModelUnsupported("GGUF files with a mixture of experts are not supported", hint=_NO_CHOICE)
    with library_errors_as(lambda error: corrupt(str(error))):  # transformers checks what it is given
        return make(file, _common(file))


def _common(file: GGUFFile) -> Fields:
    key = file.architecture
    layers = file.whole(f"{key}.block_count", most=min(_MOST_LAYERS, len(file.tensors)))
    heads = file.whole(f"{key}.attention.head_count", most=65_536)
    width = file.whole(f"{key}.embedding_length", most=2**24)
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != width:
        raise corrupt(f"{EMBEDDING} does not have {key}.embedding_length columns")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "intermediate_size": file.whole(f"{key}.feed_forward_length", most=2**26),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": file.whole(f"{key}.attention.head_count_kv", heads, most=heads),
        "head_dim": file.whole(f"{key}.attention.key_length", max(1, width // heads), most=65_536),
        "max_position_embeddings": file.whole(f"{key}.context_length", most=10**9),
        "rms_norm_eps": file.real(
            f"{key}.attention.layer_norm_rms_epsilon", _GEMMA3_EPSILON if key == "gemma3" else None
        ),
        "rope_parameters": _rope(file, file.real(f"{key}.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": OUTPUT not in file.tensors,
    }


def _rope(file: GGUFFile, base: float) -> Fields:
    key = f"{file.architecture}.rope"
    kind = file.text(f"{key}.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": base}
    factor = file.real(f"{key}.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if kind == "yarn":
        original = file.whole(f"{key}.scaling.original_context_length", most=10**9)
        return {
            "rope_type": "yarn",
            "rope_theta": base,
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise ModelUnsupported(f"GGUF files with rotary positions of the type {kind[:40]!r} are not supported")


def _llama(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    has_bias = "blk.0.attn_q.bias" in file.tensors
    return LlamaConfig(**common, attention_bias=has_bias)


def _qwen2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Qwen2Config(**{name: value for name, value in common.items() if name != "head_dim"})


def _qwen3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Qwen3Config(**common)


def _gemma2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    is_largest = common["num_hidden_layers"] == _LARGEST_GEMMA2_LAYERS
    return Gemma2Config(
        **common,
        query_pre_attn_scalar=_attention_scalar(common, is_largest),
        sliding_window=file.whole("gemma2.attention.sliding_window", 4096),
        attn_logit_softcapping=file.real("gemma2.attn_logit_softcapping", 50.0),
        final_logit_softcapping=file.real("gemma2.final_logit_softcapping", 30.0),
        layer_types=_layer_types(common["num_hidden_layers"], 2),
    )


def _gemma3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    is_largest = common["num_hidden_layers"] == _LARGEST_GEMMA3_LAYERS
    common["rope_parameters"] = _gemma3_rope(file, common["max_position_embeddings"])
    return Gemma3TextConfig(
        **common,
        query_pre_attn_scalar=_attention_scalar(common, is_largest),
        sliding_window=file.whole("gemma3.attention.sliding_window", 1024),
        layer_types=_layer_types(common["num_hidden_layers"], _GEMMA3_PATTERN),
    )


def _gemma3_rope(file: GGUFFile, context_length: int) -> Fields:
    """Returns the settings of both types of layers."""
    key = "gemma3.rope"
    base = file.real(f"{key}.freq_base", file.real(f"{key}.global.freq_base", _GLOBAL_ROPE_BASE))
    local = file.real(f"{key}.freq_base_swa", file.real(f"{key}.local.freq_base", _LOCAL_ROPE_BASE))
    full = _rope(file, base)
    if f"{key}.scaling.type" not in file.metadata and context_length >= _GEMMA3_LONG_CONTEXT:
        full = {"rope_type": "linear", "rope_theta": base, "factor": _GEMMA3_FACTOR}
    return {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def _attention_scalar(common: Fields, is_largest: bool) -> int:
    scalar: int = common["hidden_size"] // common["num_attention_heads"] if is_largest else common["head_dim"]
    return scalar


def _layer_types(layers: int, pattern: int) -> list[str]:
    """Returns a type for each layer: the last one of every `pattern` layers sees the whole context."""
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]


_CONFIGS: Mapping[str, Callable[[GGUFFile, Fields], PreTrainedConfig]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
}
