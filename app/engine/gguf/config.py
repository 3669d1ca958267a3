"""Makes transformers' configuration of a model from the metadata of a GGUF file."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    Starcoder2Config,
)

from app.core.errors import ModelUnsupported
from app.engine.gguf.file import GGUFFile, corrupt
from app.engine.gguf.tensor_names import LONG_FACTORS, SHORT_FACTORS
from app.engine.loading.folder_check import library_errors_as
from app.engine.loading.limits.size_limits import MOST_LAYERS

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_NO_CHOICE = (
    "Choose a GGUF file of Llama, Mistral, SmolLM 2 or 3, Qwen 2 or 3, Gemma 2 or 3, Phi 3 or 4, Granite, "
    "OLMo 2 or StarCoder 2; or the same model with safetensors, which may be of any architecture."
)
# Gemma 3, whose values Ollama's files name otherwise or leave out.
_LOCAL_ROPE_BASE, _GLOBAL_ROPE_BASE = 10_000.0, 1_000_000.0  # with a sliding window, and without
_GEMMA3_EPSILON = 1e-6
_GEMMA3_LONG_CONTEXT, _GEMMA3_FACTOR = 131_072, 8.0  # all but the smallest model stretch their positions
_GEMMA3_PATTERN = 6  # every sixth layer sees the whole context
_LARGEST_GEMMA2_LAYERS, _LARGEST_GEMMA3_LAYERS = 46, 62  # the 27B models scale their attention differently

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
    layers = file.whole(f"{key}.block_count", most=min(MOST_LAYERS, len(file.tensors)))
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
        "rms_norm_eps": _epsilon(file),
        "rope_parameters": _rope(file, file.real(f"{key}.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": OUTPUT not in file.tensors,
        "pad_token_id": None,  # the default of a class may lie beyond the vocabulary
    }


def _epsilon(file: GGUFFile) -> float:
    key = f"{file.architecture}.attention"
    if f"{key}.layer_norm_rms_epsilon" not in file.metadata and f"{key}.layer_norm_epsilon" in file.metadata:
        return file.real(f"{key}.layer_norm_epsilon")
    return file.real(
        f"{key}.layer_norm_rms_epsilon", _GEMMA3_EPSILON if file.architecture == "gemma3" else None
    )


def _rope(file: GGUFFile, base: float) -> Fields:
    key = f"{file.architecture}.rope"
    kind = file.text(f"{key}.scaling.type", "none")
    if kind in ("none", "longrope"):  # the latter's factors are tensors
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


def _granite(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return GraniteConfig(
        **common,
        attention_multiplier=file.real("granite.attention.scale", common["head_dim"] ** -0.5),
        embedding_multiplier=file.real("granite.embedding_scale", 1.0),
        residual_multiplier=file.real("granite.residual_scale", 1.0),
        logits_scaling=file.real("granite.logit_scale", 1.0),
    )


def _olmo2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    if "olmo2.attention.sliding_window" in file.metadata:
        raise ModelUnsupported("GGUF files of OLMo 3 are not supported", hint=_NO_CHOICE)
    return Olmo2Config(**_without_head_dim(common))


def _smollm3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return SmolLM3Config(**common)  # every fourth layer is without positions, as in llama.cpp


def _starcoder2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Starcoder2Config(**_without_head_dim(common), norm_epsilon=common["rms_norm_eps"])


def _phi3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    rotated = file.whole("phi3.rope.dimension_count", common["head_dim"], most=common["head_dim"])
    rope = common["rope_parameters"] | {"partial_rotary_factor": rotated / common["head_dim"]}
    original = file.whole("phi3.rope.scaling.original_context_length", 4096, least=2, most=10**9)
    original = min(original, common["max_position_embeddings"])
    if SHORT_FACTORS in file.tensors:
        rope |= {
            "rope_type": "longrope",
            "short_factor": file.floats(SHORT_FACTORS),
            "long_factor": file.floats(LONG_FACTORS),
            "original_max_position_embeddings": original,
        }
    window = file.whole("phi3.attention.sliding_window", 0, least=0)
    common["rope_parameters"] = rope
    return Phi3Config(
        **_without_head_dim(common),
        sliding_window=window or None,
        original_max_position_embeddings=original,
    )


def _without_head_dim(common: Fields) -> Fields:
    """Returns the arguments of architectures in which all heads together are as wide as the model."""
    if common["head_dim"] * common["num_attention_heads"] != common["hidden_size"]:
        raise corrupt("its heads are not as wide as the model")
    return {name: value for name, value in common.items() if name != "head_dim"}


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
    "granite": _granite,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "smollm3": _smollm3,
    "starcoder2": _starcoder2,
}
