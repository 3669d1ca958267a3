"""Makes tiny hybrids and mixtures of experts with random weights."""

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma4TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteMoeConfig,
    GraniteMoeHybridConfig,
    GraniteMoeSharedConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
)

from tests.engine.gguf.files import VOCABULARY

LAYERS = 3
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
_DENSE: dict[str, Any] = {**_SHAPE, "intermediate_size": 96}
_EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2}
_MIXED: dict[str, Any] = {"layer_types": ["conv", "full_attention", "conv"], "norm_eps": 1e-4}
_LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_GEMMA4: dict[str, Any] = {
    **_DENSE,
    "tie_word_embeddings": True,
    "head_dim": 16,
    "global_head_dim": 32,
}
_YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}
_DELTA_NET: dict[str, Any] = {
    **_LINEAR,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0, "partial_rotary_factor": 0.25},
}
_FACTORS: dict[str, Any] = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
    "attention_multiplier": 0.3,
}
_GRANITE_EXPERTS: dict[str, Any] = {
    "intermediate_size": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
}
_MAMBA2: dict[str, Any] = {
    **_LINEAR,
    **_FACTORS,
    "shared_intermediate_size": 96,
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=160),
    "gemma4": Gemma4TextConfig(
        **{**_GEMMA4, "num_hidden_layers": 6},
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 3,
        hidden_size_per_layer_input=32,
        vocab_size_per_layer_input=VOCABULARY,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        final_logit_softcapping=30.0,
    ),
    "gemma4 without embeddings of its layers": Gemma4TextConfig(
        **{**_GEMMA4, "num_global_key_value_heads": 1},
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        hidden_size_per_layer_input=0,
        attention_k_eq_v=True,
    ),
    "qwen2moe": Qwen2MoeConfig(
        **_DENSE, **_EXPERTS, moe_intermediate_size=32, shared_expert_intermediate_size=64
    ),
    "qwen3moe": Qwen3MoeConfig(
        **{**_DENSE, "head_dim": 32}, **_EXPERTS, moe_intermediate_size=32, norm_topk_prob=True
    ),
    "olmoe": OlmoeConfig(**_DENSE, **_EXPERTS),
    "gpt-oss": GptOssConfig(
        **_DENSE,
        head_dim=16,
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters={**_YARN, "rope_theta": 150_000.0, "beta_fast": 16.0, "truncate": False},
    ),
    "granitemoe": GraniteMoeConfig(**_SHAPE, **_FACTORS, **_GRANITE_EXPERTS),
    "granitemoe with a shared expert": GraniteMoeSharedConfig(
        **_SHAPE, **_FACTORS, **_GRANITE_EXPERTS, shared_intermediate_size=96
    ),
    "lfm2": Lfm2Config(**_DENSE, **_MIXED, block_auto_adjust_ff_dim=False),
    "lfm2moe": Lfm2MoeConfig(
        **{**_DENSE, "tie_word_embeddings": True},
        **_MIXED,
        **_EXPERTS,
        moe_intermediate_size=32,
        num_dense_layers=1,
    ),
    "granitehybrid": GraniteMoeHybridConfig(**_DENSE, **_MAMBA2, num_local_experts=0),
    "granitehybrid with experts": GraniteMoeHybridConfig(**_SHAPE, **_MAMBA2, **_GRANITE_EXPERTS),
    "qwen35": Qwen3_5TextConfig(**_DENSE, **_DELTA_NET),
    "qwen35moe": Qwen3_5MoeTextConfig(
        **_SHAPE, **_DELTA_NET, **_EXPERTS, moe_intermediate_size=32, shared_expert_intermediate_size=64
    ),
}


def tiny_model(case: str) -> PreTrainedModel:
    """Returns a model in float32 with random weights, also in its norms, biases and states."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[case])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(0.1 * torch.randn_like(value))
    model.train(False)
    return model
