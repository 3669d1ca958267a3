"""Makes the configurations of mixtures of experts whose layers all have attention."""

from transformers import (
    GptOssConfig,
    GraniteMoeConfig,
    GraniteMoeSharedConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from app.core.errors import ModelUnsupported
from app.engine.gguf.configs.fields import MOST_WIDTH, Fields, multipliers, without_head_dim
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import corrupt

_MOST_EXPERTS = 4_096
_SOFTMAX = 1  # llama.cpp's number of the function that makes weights of a router's logits
_EXPERT_SHAPE = "blk.{}.ffn_down_exps.weight"


def expert_fields(file: GGUFFile, gating: int = _SOFTMAX, layer: int = 0) -> Fields:
    """Returns the arguments of a mixture of experts. `layer` is the first one that has them.

    Raises ModelUnsupported if the file says that its router has another gating function.
    """
    key = file.architecture
    experts = file.whole(f"{key}.expert_count", most=_MOST_EXPERTS)
    if file.metadata.get(f"{key}.expert_gating_func", gating) != gating:
        raise ModelUnsupported(f"GGUF files of {key} with another gating function are not supported")
    if file.metadata.get(f"{key}.expert_weights_scale", 1.0) not in (0.0, 1.0):  # both mean none
        raise ModelUnsupported(f"GGUF files of {key} that scale the experts' weights are not supported")
    return {
        "num_experts": experts,
        "num_experts_per_tok": file.whole(f"{key}.expert_used_count", most=experts),
        "moe_intermediate_size": expert_width(file, layer),
    }


def expert_width(file: GGUFFile, layer: int = 0) -> int:
    """Returns the width of an expert, which older files do not name. `layer` is one that has them."""
    down = file.tensors.get(_EXPERT_SHAPE.format(layer))
    if down is None or len(down.shape) != 3:
        raise corrupt(f"layer {layer} has no experts")
    return file.whole(f"{file.architecture}.expert_feed_forward_length", down.shape[2], most=MOST_WIDTH)


def qwen2moe(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    shared = file.tensors.get("blk.0.ffn_down_shexp.weight")
    if shared is None or len(shared.shape) != 2:
        raise corrupt("it has no shared expert")
    fields = without_head_dim(common) | expert_fields(file)
    return Qwen2MoeConfig(**fields, shared_expert_intermediate_size=shared.shape[1], norm_topk_prob=False)


def qwen3moe(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    return Qwen3MoeConfig(**common, **expert_fields(file), norm_topk_prob=True)  # as llama.cpp takes it


def olmoe(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    if "olmoe.attention.clamp_kqv" in file.metadata:
        raise ModelUnsupported("GGUF files of olmoe that clamp queries, keys and values are not supported")
    fields = without_head_dim(common) | expert_fields(file)
    fields["intermediate_size"] = fields.pop("moe_intermediate_size")
    return OlmoeConfig(**fields, norm_topk_prob=False)


def granitemoe(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    fields = without_head_dim(common) | multipliers(file, common["head_dim"]) | granite_experts(file)
    shared = "granitemoe.expert_shared_feed_forward_length"
    if shared not in file.metadata:
        return GraniteMoeConfig(**fields)
    return GraniteMoeSharedConfig(**fields, shared_intermediate_size=file.whole(shared, most=MOST_WIDTH))


def granite_experts(file: GGUFFile) -> Fields:
    """Returns the arguments of a mixture of experts, under Granite's names."""
    fields = expert_fields(file)
    return {
        "num_local_experts": fields["num_experts"],
        "num_experts_per_tok": fields["num_experts_per_tok"],
        "intermediate_size": fields["moe_intermediate_size"],
    }


def gpt_oss(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    fields = expert_fields(file)
    common["intermediate_size"] = fields.pop("moe_intermediate_size")
    if common["rope_parameters"]["rope_type"] == "yarn":
        common["rope_parameters"]["truncate"] = False  # so the model was trained
    return GptOssConfig(
        **common,
        num_local_experts=fields["num_experts"],
        num_experts_per_tok=fields["num_experts_per_tok"],
        sliding_window=file.whole("gpt-oss.attention.sliding_window"),
    )
