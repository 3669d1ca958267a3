"""Lists the metadata of tiny hybrids and mixtures, under the names in a GGUF file."""

from typing import Any

from transformers import (
    Gemma4TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    PreTrainedConfig,
)


def facts_of(config: PreTrainedConfig, architecture: str) -> dict[str, Any]:
    """Returns the metadata; the keys lack the architecture in front."""
    if isinstance(config, GPT2Config):
        return {
            "block_count": config.n_layer,
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "feed_forward_length": 4 * config.n_embd,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    if isinstance(config, Gemma4TextConfig):
        return _gemma4_facts(config)
    facts = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "norm_eps", None) or config.rms_norm_eps,
    }
    if getattr(config, "head_dim", None):
        facts["attention.key_length"] = config.head_dim
    if hasattr(config, "intermediate_size"):
        facts["feed_forward_length"] = config.intermediate_size
    return facts | _rope_facts(config) | _expert_facts(config) | _layer_facts(config, architecture)


def _rope_facts(config: PreTrainedConfig) -> dict[str, Any]:
    rope: Any = config.rope_parameters  # a dict of transformers
    facts: dict[str, Any] = {"rope.freq_base": rope["rope_theta"]} if rope else {}
    if rope and rope["rope_type"] == "yarn":
        facts |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_beta_fast": rope["beta_fast"],
        }
    return facts


def _expert_facts(config: PreTrainedConfig) -> dict[str, Any]:
    count = getattr(config, "num_local_experts", getattr(config, "num_experts", 0))
    if not count:
        return {}
    width = getattr(config, "moe_intermediate_size", config.to_dict().get("intermediate_size"))
    facts = {
        "expert_count": count,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": width,
    }
    if hasattr(config, "shared_expert_intermediate_size"):
        facts["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    return facts


def _layer_facts(config: PreTrainedConfig, architecture: str) -> dict[str, Any]:
    if isinstance(config, GptOssConfig):
        return {"attention.sliding_window": config.sliding_window}
    kinds = getattr(config, "layer_types", None) or []
    heads = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds]
    if isinstance(config, Lfm2Config | Lfm2MoeConfig):
        facts = {"attention.head_count_kv": heads, "shortconv.l_cache": config.conv_L_cache}
        if isinstance(config, Lfm2MoeConfig):
            facts |= {"leading_dense_block_count": config.num_dense_layers, "expert_gating_func": 2}
        return facts
    if isinstance(config, GraniteMoeHybridConfig):
        return {"attention.head_count_kv": heads} | _granite_facts(config) | _mamba2_facts(config)
    if architecture == "granitemoe":
        return _granite_facts(config)
    return _delta_net_facts(config) if architecture.startswith("qwen35") else {}


def _granite_facts(config: PreTrainedConfig) -> dict[str, Any]:
    shared = getattr(config, "shared_intermediate_size", None)
    return ({"expert_shared_feed_forward_length": shared} if shared else {}) | {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }


def _mamba2_facts(config: GraniteMoeHybridConfig) -> dict[str, Any]:
    return {
        "rope.scaling.finetuned": False,
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.state_size": config.mamba_d_state,
        "ssm.group_count": config.mamba_n_groups,
        "ssm.inner_size": 2 * config.hidden_size,
        "ssm.time_step_rank": config.mamba_n_heads,
    }


def _delta_net_facts(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_value_head_dim * config.linear_num_value_heads,
        "rope.dimension_count": config.head_dim // 4,
    }


def _gemma4_facts(config: Gemma4TextConfig) -> dict[str, Any]:
    kinds = config.layer_types or []
    layers = [config.per_layer_config[i] for i in range(len(kinds))]
    shared = config.num_kv_shared_layers
    width = config.intermediate_size
    double = width * (1 + config.use_double_wide_mlp)
    rope: Any = config.rope_parameters  # a dict of transformers
    facts = {
        "block_count": len(kinds),
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "feed_forward_length": [width] * (len(kinds) - shared) + [double] * shared,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": [layer.num_key_value_heads for layer in layers],
        "attention.key_length": layers[-1].head_dim,
        "attention.key_length_swa": layers[0].head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.shared_kv_layers": shared,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in kinds],
        "rope.freq_base": rope["full_attention"]["rope_theta"],
        "rope.freq_base_swa": rope["sliding_attention"]["rope_theta"],
    }
    cap = config.final_logit_softcapping
    return facts if cap is None else {**facts, "final_logit_softcapping": cap}
