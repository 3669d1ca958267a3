"""Makes a tiny configuration of each causal architecture of transformers, by the names of its sizes."""

import inspect
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Options = dict[str, Any]  # arguments of a configuration, which have no common type

_BY_SIZE: dict[float, str] = {
    0: "num_kv_shared_layers num_nextn_predict_layers",
    0.3: "initializer_range init_std",
    1: "first_k_dense_replace mamba_n_groups mamba_ngroups moe_num_shared_experts n_shared_experts "
    "num_shared_experts topk_group",
    2: "altup_num_inputs encoder_layers index_n_heads linear_num_key_heads moe_k moe_topk n_group "
    "num_encoder_layers num_experts_per_tok num_experts_per_token num_key_value_heads top_k_experts",
    4: "attention_heads decoder_attention_heads decoder_layers encoder_attention_heads "
    "linear_num_value_heads moe_num_experts n_head n_heads n_layer n_layers n_routed_experts "
    "num_attention_heads num_decoder_attention_heads num_decoder_layers num_encoder_attention_heads "
    "num_experts num_heads num_hidden_layers num_layers num_local_experts rotary_dim",
    8: "attention_window_size dim_head global_head_dim head_dim hidden_size_per_layer_input index_head_dim "
    "index_topk kv_channels laurel_rank linear_head_dim linear_key_head_dim linear_num_heads "
    "linear_value_head_dim local_attention mamba_d_head mamba_dt_rank mamba_head_dim mamba_headdim "
    "mamba_n_heads mamba_num_heads n_mamba_heads qk_nope_head_dim qk_rope_head_dim query_pre_attn_scalar "
    "router_hidden_size sliding_window time_step_rank v_head_dim",
    16: "chunk_size expert_ffn_hidden_size intermediate_size_moe kv_lora_rank mamba_chunk_size mamba_d_state "
    "moe_intermediate_size moe_shared_expert_intermediate_size num_shared_experts_intermediate_size "
    "q_lora_rank qk_head_dim shared_expert_intermediate_size shared_experts_intermediate_size "
    "shared_intermediate_size ssm_state_size state_size",
    32: "attention_hidden_size d_model dim dim_model emb_dim embed_dim embed_size embedding_size hidden_size "
    "hidden_size_global input_embedding_size lru_width n_embd n_embed output_embedding_size "
    "word_embed_proj_dim",
    48: "d_inner decoder_ffn_dim dff dim_ff encoder_ffn_dim feed_forward_size ffn_dim ffn_hidden_size "
    "intermediate_size intermediate_size_mlp n_inner",
    64: "mamba_d_ssm",
    256: "context_length max_len max_position_embeddings max_seq_len max_sequence_length "
    "max_target_positions n_ctx n_positions original_max_position_embeddings",
    300: "vocab_size_per_layer_input",
}
_SIZES: Options = {name: size for size, names in _BY_SIZE.items() for name in names.split()}
_SIZES["dropout"] = 0.0
_DERIVED = {  # the class finds these itself where their default is None
    *("d_inner", "embedding_size", "lru_width", "mamba_d_ssm", "n_group", "n_inner", "n_shared_experts"),
    *(
        "num_experts",
        "num_local_experts",
        "num_shared_experts",
        "q_lora_rank",
        "sliding_window",
        "topk_group",
    ),
}
_LAYERS = 4

_LATENT = {"num_key_value_heads": 4, "head_dim": ..., "qk_head_dim": ...}
_TWO_LATENTS = {
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "head_dim"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
}
_ALL_INDEXED = {**_LATENT, "index_topk": 512}  # no smaller than the window, so that rounding picks no keys
_AS_MANY_ENCODERS = {"encoder_layers": 4}
_CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_OTHER_PADDING = {"pad_token_id": 5}  # positions begin after it

# What an architecture needs beside the sizes; `...` takes one away.
_OWN: dict[str, Options] = {
    **dict.fromkeys(("axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"), _LATENT),
    **dict.fromkeys(("kimi_linear", "minicpm3", "youtu"), _LATENT),
    **dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa"), _ALL_INDEXED),
    **dict.fromkeys(("lfm2", "lfm2_moe"), _CONVOLUTIONS),
    **dict.fromkeys(
        ("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian"), _AS_MANY_ENCODERS
    ),
    **dict.fromkeys(("mbart", "mvp", "pegasus", "plbart", "trocr", "whisper"), _AS_MANY_ENCODERS),
    **dict.fromkeys(("roberta", "camembert", "data2vec-text", "roberta-prelayernorm"), _OTHER_PADDING),
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 300},
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _ROPE)},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_top_k": 2},
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_text": _TWO_LATENTS
    | {f"swa_{name}": size for name, size in _TWO_LATENTS.items()}
    | {"index_topk": 512, "layer_types": ["indexed_attention", "sliding_attention"] * 2},
    "dots3_note_vision_encoder": {
        "adapter_in_dim": 32,
        "adapter_out_dim": 32,
        "mlp_layer_types": ["dense"] * _LAYERS,
    },
    "gemma4_text": {"num_kv_shared_layers": 2, "head_dim": ...},
    "gemma4_unified_text": {"head_dim": ...},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hy_v4": {"index_topk": 512},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "longcat_flash": {**_LATENT, "num_hidden_layers": ..., "num_layers": 2, "head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16},
    "openai-gpt": {"n_positions": 256},
    "prophetnet": {"num_encoder_layers": 4},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 512,
        "indexer_compress_ratio": 2,
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
    },
    "recurrent_gemma": {"w_init_variance_scale": 1.0},
    "reformer": {"axial_pos_embds": False, "is_decoder": True},
    "xlm": {"causal": True, "n_heads": 4},
    "xlstm": {"hidden_size": 64, "num_heads": 4, "qk_dim_factor": 1.0, "num_blocks": _LAYERS},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": ...,
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
    },
    "zamba2": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(architecture: str, vocabulary: int) -> PreTrainedConfig:
    """Returns the configuration. What its class refuses raises the class's own error."""
    config = CONFIG_MAPPING[architecture]
    options = _options(config, vocabulary)
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config(), name, None)
        if isinstance(part, PreTrainedConfig) and name not in options:
            options[name] = {**_options(type(part), vocabulary), "model_type": part.model_type}
    made: PreTrainedConfig = config(**options)
    if hasattr(made, "is_decoder"):
        made.is_decoder = True
    return made


def _options(config: type[PreTrainedConfig], vocabulary: int) -> Options:
    default, known = config(), _parameters(config)
    options = {name: size for name, size in _SIZES.items() if name in known and _is_free(default, name)}
    for name in ("layer_types", "mlp_layer_types"):
        if name in known and getattr(default, name, None):
            kinds = list(dict.fromkeys(getattr(default, name)))
            options[name] = (kinds * _LAYERS)[:_LAYERS]
    options |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    options |= _OWN.get(config.model_type, {})
    return {name: value for name, value in options.items() if value is not ...}


def _is_free(default: PreTrainedConfig, name: str) -> bool:
    """Returns whether the size may be given: not under two names, nor where the class finds it by itself."""
    if default.attribute_map.get(name) in _SIZES:
        return False
    try:
        value = getattr(default, name, None)
    except RuntimeError:  # of transformers, where layers differ
        return False
    return not isinstance(value, list | tuple | dict) and not (value is None and name in _DERIVED)


def _parameters(config: type[PreTrainedConfig]) -> set[str]:
    found: set[str] = set()
    for each in config.__mro__:
        found |= set(getattr(each, "__annotations__", {}))
        if "__init__" in vars(each):
            found |= set(inspect.signature(vars(each)["__init__"]).parameters)
    return found
