"""Makes the configurations of models some of whose layers have convolutions or states for attention."""

from transformers import (
    GraniteMoeHybridConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    PreTrainedConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
)

from app.engine.gguf.configs.fields import (
    MOST_WIDTH,
    Fields,
    is_recurrent,
    multipliers,
    unsupported,
    without_head_dim,
)
from app.engine.gguf.configs.mixtures import expert_fields, expert_width, granite_experts
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import corrupt

_SIGMOID = 2  # llama.cpp's number of the gating function
_MOST_HEADS = 65_536
_MOST_KERNEL = 1_024


def lfm2(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Lfm2Config(**_short_convolutions(file, common), block_auto_adjust_ff_dim=False)


def lfm2moe(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    layers = common["num_hidden_layers"]
    dense = file.whole("lfm2moe.leading_dense_block_count", 0, least=0, most=layers - 1)
    fields = expert_fields(file, gating=_SIGMOID, layer=dense)
    return Lfm2MoeConfig(
        **_short_convolutions(file, common),
        **fields,
        num_dense_layers=dense,
        norm_topk_prob=True,
        use_expert_bias=f"blk.{dense}.exp_probs_b.bias" in file.tensors,
    )


def _short_convolutions(file: GGUFFile, common: Fields) -> Fields:
    fields = without_head_dim(common)
    recurrent = is_recurrent(file, fields["num_hidden_layers"])
    return fields | {
        "norm_eps": fields.pop("rms_norm_eps"),
        "layer_types": ["conv" if kind else "full_attention" for kind in recurrent],
        "conv_L_cache": file.whole(f"{file.architecture}.shortconv.l_cache", most=_MOST_KERNEL),
    }


def granitehybrid(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    if file.metadata.get("granitehybrid.rope.scaling.finetuned", False) is not False:
        raise unsupported(
            "GGUF files of granitehybrid with rotary positions, such as Bamba's, are not supported"
        )
    recurrent = is_recurrent(file, common["num_hidden_layers"])
    return GraniteMoeHybridConfig(
        **without_head_dim(common)
        | multipliers(file, common["head_dim"])
        | _mamba2(file, common)
        | _granite_mlp(file, common),
        layer_types=["linear_attention" if kind else "full_attention" for kind in recurrent],
        position_embedding_type=None,
    )


def _granite_mlp(file: GGUFFile, common: Fields) -> Fields:
    """Returns the arguments of the shared MLP, and of the experts beside it if there are any."""
    width = common["intermediate_size"]
    shared = file.whole("granitehybrid.expert_shared_feed_forward_length", width, most=MOST_WIDTH)
    if not file.metadata.get("granitehybrid.expert_count", 0):
        return {"num_local_experts": 0, "shared_intermediate_size": shared}
    return granite_experts(file) | {"shared_intermediate_size": shared}


def _mamba2(file: GGUFFile, common: Fields) -> Fields:
    """Returns the arguments of the state spaces."""
    key, width = f"{file.architecture}.ssm", common["hidden_size"]
    inner = file.whole(f"{key}.inner_size", most=MOST_WIDTH)
    heads = file.whole(f"{key}.time_step_rank", most=_MOST_HEADS)
    if inner % width or inner % heads:
        raise corrupt(f"{key}.inner_size does not fit the width or the heads")
    return {
        "mamba_expand": inner // width,
        "mamba_n_heads": heads,
        "mamba_d_head": inner // heads,
        "mamba_n_groups": file.whole(f"{key}.group_count", most=heads),
        "mamba_d_state": file.whole(f"{key}.state_size", most=MOST_WIDTH),
        "mamba_d_conv": file.whole(f"{key}.conv_kernel", most=_MOST_KERNEL),
    }


def qwen35(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Qwen3_5TextConfig(**common | _delta_nets(file, common))


def qwen35moe(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    key = "qwen35moe.expert_shared_feed_forward_length"
    fields = common | _delta_nets(file, common) | expert_fields(file)
    fields.pop("intermediate_size")
    return Qwen3_5MoeTextConfig(
        **fields, shared_expert_intermediate_size=file.whole(key, expert_width(file), most=MOST_WIDTH)
    )


def _delta_nets(file: GGUFFile, common: Fields) -> Fields:
    """Returns the arguments of the linear attention, and of the rotary positions beside it."""
    key, head_dim = file.architecture, common["head_dim"]
    heads = file.whole(f"{key}.ssm.time_step_rank", most=_MOST_HEADS)
    key_heads = file.whole(f"{key}.ssm.group_count", most=heads)
    inner = file.whole(f"{key}.ssm.inner_size", most=MOST_WIDTH)
    if inner % heads or heads % key_heads:
        raise corrupt(f"{key}.ssm has heads of different sizes")
    rotated = file.whole(f"{key}.rope.dimension_count", head_dim, most=head_dim)
    return {
        "linear_num_value_heads": heads,
        "linear_num_key_heads": key_heads,
        "linear_value_head_dim": inner // heads,
        "linear_key_head_dim": file.whole(f"{key}.ssm.state_size", most=MOST_WIDTH),
        "linear_conv_kernel_dim": file.whole(f"{key}.ssm.conv_kernel", most=_MOST_KERNEL),
        "layer_types": _delta_net_layers(file, common["num_hidden_layers"]),
        "rope_parameters": common["rope_parameters"] | {"partial_rotary_factor": rotated / head_dim},
    }


def _delta_net_layers(file: GGUFFile, layers: int) -> list[str]:
    """Returns the types of the layers, which their tensors show."""
    return [
        "full_attention" if f"blk.{layer}.attn_q.weight" in file.tensors else "linear_attention"
        for layer in range(layers)
    ]
