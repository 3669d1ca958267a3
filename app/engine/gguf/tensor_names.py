"""Translates the names of tensors in a GGUF file into those of transformers' models."""

import re
from collections.abc import Mapping

from app.core.errors import ModelUnsupported

ROPE_FACTORS = "rope_freqs.weight"  # not a weight: divisors of the rotary frequencies
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"  # the same, of Phi 3
# Computed, read elsewhere, or of the part for images, which Ollama keeps in the same file.
_IGNORED = re.compile(
    r"blk\.\d+\.attn_rot_embd\.weight|rope_freqs\.weight|rope_factors_(short|long)\.weight|(v|mm)\.[\w.]+"
)
_WHOLE: Mapping[str, str] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output_norm.bias": "model.norm.bias",
    "output.weight": "lm_head.weight",
}
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
_PARTS_OF: Mapping[str, Mapping[str, str]] = {
    "gemma2": _GEMMA_PARTS,
    "gemma3": _GEMMA_PARTS,
    "olmo2": {
        **_PARTS,
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "phi3": {**_PARTS, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    "starcoder2": {**_PARTS, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
}
_LAYER = re.compile(r"blk\.(\d{1,6})\.(\w+)\.(weight|bias)")


def to_transformers(name: str, architecture: str) -> str | None:
    """Returns the parameter's name in transformers; None for a tensor that is not a weight.

    Raises:
        ModelUnsupported: no supported model has this tensor.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    if _IGNORED.fullmatch(name):
        return None
    found = _LAYER.fullmatch(name)
    parts = _PARTS_OF.get(architecture, _PARTS)
    if found is None or found[2] not in parts:
        raise ModelUnsupported(f"the GGUF file has a tensor that the engine does not know: {name[:80]!r}")
    return f"model.layers.{int(found[1])}.{parts[found[2]]}.{found[3]}"
