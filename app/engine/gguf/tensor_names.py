"""Translates the names of tensors in a GGUF file into those of transformers' models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.errors import ModelUnsupported

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
EMBEDDINGS_OF_LAYERS = "per_layer_token_embd.weight"  # of Gemma 4, beside the usual one
ROPE_FACTORS = "rope_freqs.weight"  # not a weight: divisors of the rotary frequencies
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"  # the same, of Phi 3
# Computed, read elsewhere, or of the part for images, which Ollama keeps in the same file.
_IGNORED = re.compile(
    r"blk\.\d+\.attn_rot_embd\.weight|rope_freqs\.weight|rope_factors_(short|long)\.weight|(v|mm)\.[\w.]+"
)
_LAYER = re.compile(r"blk\.(\d{1,6})\.([\w.]+?)(?:\.(weight|bias))?")
_WHOLE: Mapping[str, str] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output_norm.bias": "model.norm.bias",
    "output.weight": "lm_head.weight",
}
_LFM2_WHOLE: Mapping[str, str] = {**_WHOLE, "token_embd_norm.weight": "model.embedding_norm.weight"}
_GEMMA4_WHOLE: Mapping[str, str] = {
    **_WHOLE,
    EMBEDDINGS_OF_LAYERS: "model.embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": "model.per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "model.per_layer_projection_norm.weight",
}
_GPT2_WHOLE: Mapping[str, str] = {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": "lm_head.weight",
}
# The keys with a dot are whole names in a layer; the others are followed by ".weight" or ".bias".
_PARTS: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_PARTS: Mapping[str, str] = {
    **_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA4_PARTS: Mapping[str, str] = {
    **_GEMMA_PARTS,
    "layer_output_scale.weight": "layer_scalar",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
_MIXTURE_PARTS: Mapping[str, str] = {
    **_PARTS,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_DELTA_NET_PARTS: Mapping[str, str] = {
    **_MIXTURE_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_LFM2_PARTS: Mapping[str, str] = {
    **_PARTS,
    "attn_norm": "operator_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_gate_inp": "feed_forward.gate",
    "ffn_gate_exps": "feed_forward.experts.gate_proj",
    "ffn_up_exps": "feed_forward.experts.up_proj",
    "ffn_down_exps": "feed_forward.experts.down_proj",
    "exp_probs_b.bias": "feed_forward.expert_bias",
}
_GRANITE_PARTS: Mapping[str, str] = {
    **_PARTS,
    "ssm_in": "mamba.in_proj",
    "ssm_conv1d": "mamba.conv1d",
    "ssm_a": "mamba.A_log",
    "ssm_d": "mamba.D",
    "ssm_dt.bias": "mamba.dt_bias",
    "ssm_norm": "mamba.norm",
    "ssm_out": "mamba.out_proj",
    **dict.fromkeys(("ffn_gate", "ffn_gate_shexp"), "shared_mlp.gate_proj"),
    **dict.fromkeys(("ffn_up", "ffn_up_shexp"), "shared_mlp.up_proj"),
    **dict.fromkeys(("ffn_down", "ffn_down_shexp"), "shared_mlp.output_linear"),
    "ffn_gate_inp": "block_sparse_moe.router",
    "ffn_gate_exps": "block_sparse_moe.experts.gate_proj",
    "ffn_up_exps": "block_sparse_moe.experts.up_proj",
    "ffn_down_exps": "block_sparse_moe.experts.down_proj",
}


@dataclass(frozen=True, slots=True)
class _Names:
    """The names that one architecture has in transformers."""

    parts: Mapping[str, str]
    whole: Mapping[str, str] = field(default_factory=lambda: _WHOLE)
    layers: str = "model.layers"


_USUAL = _Names(_MIXTURE_PARTS)
_NAMES: Mapping[str, _Names] = {
    "gemma2": _Names(_GEMMA_PARTS),
    "gemma3": _Names(_GEMMA_PARTS),
    "gemma4": _Names(_GEMMA4_PARTS, _GEMMA4_WHOLE),
    "olmo2": _Names(
        {
            **_PARTS,
            "post_attention_norm": "post_attention_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    ),
    "phi3": _Names({**_PARTS, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "starcoder2": _Names({**_PARTS, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}),
    "gpt2": _Names(
        {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        _GPT2_WHOLE,
        "transformer.h",
    ),
    "gpt-oss": _Names(
        {
            **_MIXTURE_PARTS,
            "attn_sinks.weight": "self_attn.sinks",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_gate_inp": "mlp.router",
        }
    ),
    **dict.fromkeys(("lfm2", "lfm2moe"), _Names(_LFM2_PARTS, _LFM2_WHOLE)),
    **dict.fromkeys(("granitemoe", "granitehybrid"), _Names(_GRANITE_PARTS)),
    **dict.fromkeys(("qwen35", "qwen35moe"), _Names(_DELTA_NET_PARTS)),
}


def to_transformers(name: str, architecture: str, layers: int) -> str | None:
    """Returns the parameter's name in transformers; None for a tensor that is not a weight.

    What lies in a layer after the first `layers` only drafts tokens. Experts that transformers keeps in one
    parameter have the names of separate ones: `gate_proj`, `up_proj` and `down_proj`.

    Raises:
        ModelUnsupported: no supported model has this tensor.
    """
    names = _NAMES.get(architecture, _USUAL)
    if name in names.whole:
        return names.whole[name]
    found = _LAYER.fullmatch(name)
    if _IGNORED.fullmatch(name) or (found is not None and int(found[1]) >= layers):
        return None
    part = None if found is None else _in_layer(names.parts, found[2], found[3])
    if found is None or part is None:
        raise ModelUnsupported(f"the GGUF file has a tensor that the engine does not know: {name[:80]!r}")
    return f"{names.layers}.{int(found[1])}.{part}"


def _in_layer(parts: Mapping[str, str], part: str, kind: str | None) -> str | None:
    if kind is None:
        return parts.get(part)
    whole = parts.get(f"{part}.{kind}")
    if whole is not None or part not in parts:
        return whole
    return f"{parts[part]}.{kind}"
