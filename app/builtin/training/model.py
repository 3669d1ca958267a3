"""Builds the built-in model, and implements the attention for its training."""

from typing import Any

import torch
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM

from app.builtin.training.tokenizer import CONTEXT_TOKENS

LAYERS = 6
WIDTH = 256
INNER = 768
HEADS = 4
TRAINING_ATTENTION = "builtin_causal"


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float = 1.0,
    **_: Any,  # transformers passes arguments for other implementations
) -> tuple[torch.Tensor, None]:
    """Causal attention by plain matrix products; trains faster on a CPU than the fused one.

    `query`, `key` and `value` are `[rows, heads, tokens, size]`; the output is `[rows, tokens, heads, size]`.
    """
    rows, heads, tokens, size = query.shape
    q, k, v = (x.reshape(rows * heads, tokens, size) for x in (query * scaling, key, value))
    future = torch.full((tokens, tokens), -1e4, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(future.expand(rows * heads, tokens, tokens), q, k.transpose(1, 2))
    mixed = torch.bmm(scores.softmax(-1), v).view(rows, heads, tokens, size)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(TRAINING_ATTENTION, causal_attention)


def build_model(vocabulary: int, end: int, pad: int, is_training: bool) -> LlamaForCausalLM:
    """Returns a model with random float32 weights. For training it uses `causal_attention`."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    config._attn_implementation = TRAINING_ATTENTION if is_training else "sdpa"
    return LlamaForCausalLM(config)


def round_parameters(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Returns the same model with its parameters converted to bfloat16. Rotary frequencies stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def sampling_defaults(end: int, pad: int) -> GenerationConfig:
    """Returns the sampling for requests that set none: close to greedy."""
    return GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        do_sample=True, temperature=0.3, top_p=0.9, max_new_tokens=256, eos_token_id=end, pad_token_id=pad
    )
