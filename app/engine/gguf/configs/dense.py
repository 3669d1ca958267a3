"""Makes the configurations of ordinary decoders: attention and an MLP in each layer."""

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
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

from app.engine.gguf.configs.fields import (
    MOST_WIDTH,
    Fields,
    epsilon,
    multipliers,
    rope,
    unsupported,
    without_head_dim,
)
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.tensor_names import LONG_FACTORS, SHORT_FACTORS

# Gemma 3, whose values Ollama's files name otherwise or leave out.
_LOCAL_ROPE_BASE, _GLOBAL_ROPE_BASE = 10_000.0, 1_000_000.0  # with a sliding window, and without
_GEMMA3_LONG_CONTEXT, _GEMMA3_FACTOR = 131_072, 8.0  # all but the smallest model stretch their positions
_GEMMA3_PATTERN = 6  # every sixth layer sees the whole context
_LARGEST_GEMMA2_LAYERS, _LARGEST_GEMMA3_LAYERS = 46, 62  # the 27B models scale their attention differently


def llama(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    has_bias = "blk.0.attn_q.bias" in file.tensors
    return LlamaConfig(**common, attention_bias=has_bias)


def qwen2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Qwen2Config(**{name: value for name, value in common.items() if name != "head_dim"})


def qwen3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Qwen3Config(**common)


def gemma2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    is_largest = common["num_hidden_layers"] == _LARGEST_GEMMA2_LAYERS
    return Gemma2Config(
        **common,
        query_pre_attn_scalar=_attention_scalar(common, is_largest),
        sliding_window=file.whole("gemma2.attention.sliding_window", 4096),
        attn_logit_softcapping=file.real("gemma2.attn_logit_softcapping", 50.0),
        final_logit_softcapping=file.real("gemma2.final_logit_softcapping", 30.0),
        layer_types=_layer_types(common["num_hidden_layers"], 2),
    )


def gemma3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
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
    full = rope(file, base)
    if f"{key}.scaling.type" not in file.metadata and context_length >= _GEMMA3_LONG_CONTEXT:
        full = {"rope_type": "linear", "rope_theta": base, "factor": _GEMMA3_FACTOR}
    return {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def granite(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return GraniteConfig(**common, **multipliers(file, common["head_dim"]))


def olmo2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    if "olmo2.attention.sliding_window" in file.metadata:
        raise unsupported("GGUF files of OLMo 3 are not supported")
    return Olmo2Config(**without_head_dim(common))


def smollm3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return SmolLM3Config(**common)  # every fourth layer is without positions, as in llama.cpp


def starcoder2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Starcoder2Config(**without_head_dim(common), norm_epsilon=common["rms_norm_eps"])


def phi3(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    rotated = file.whole("phi3.rope.dimension_count", common["head_dim"], most=common["head_dim"])
    rotation = common["rope_parameters"] | {"partial_rotary_factor": rotated / common["head_dim"]}
    original = file.whole("phi3.rope.scaling.original_context_length", 4096, least=2, most=10**9)
    original = min(original, common["max_position_embeddings"])
    if SHORT_FACTORS in file.tensors:
        rotation |= {
            "rope_type": "longrope",
            "short_factor": file.floats(SHORT_FACTORS),
            "long_factor": file.floats(LONG_FACTORS),
            "original_max_position_embeddings": original,
        }
    window = file.whole("phi3.attention.sliding_window", 0, least=0)
    common["rope_parameters"] = rotation
    return Phi3Config(
        **without_head_dim(common),
        sliding_window=window or None,
        original_max_position_embeddings=original,
    )


def gpt2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=common["vocab_size"],
        n_positions=common["max_position_embeddings"],
        n_embd=common["hidden_size"],
        n_layer=common["num_hidden_layers"],
        n_head=file.whole("gpt2.attention.head_count", most=65_536),
        n_inner=file.whole("gpt2.feed_forward_length", most=MOST_WIDTH),
        layer_norm_epsilon=epsilon(file),
        tie_word_embeddings=common["tie_word_embeddings"],
        bos_token_id=None,  # the default of the class may lie beyond the vocabulary
        eos_token_id=None,
    )


def _attention_scalar(common: Fields, is_largest: bool) -> int:
    scalar: int = common["hidden_size"] // common["num_attention_heads"] if is_largest else common["head_dim"]
    return scalar


def _layer_types(layers: int, pattern: int) -> list[str]:
    """Returns a type for each layer: the last one of every `pattern` layers sees the whole context."""
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]
