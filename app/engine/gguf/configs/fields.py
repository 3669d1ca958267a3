"""Reads from a GGUF file's metadata the arguments that many of transformers' configurations take."""

from typing import Any

from app.core.errors import ModelUnsupported
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import corrupt
from app.engine.gguf.tensor_names import EMBEDDING, OUTPUT
from app.engine.loading.limits.size_limits import MOST_LAYERS

_NO_CHOICE = (
    "Choose a GGUF file of one of the architectures that docs/models.md lists, such as llama, qwen3, gemma3 "
    "or lfm2; or the same model with safetensors, which may be of any architecture."
)
MOST_WIDTH = 2**26
_GEMMA3_EPSILON = 1e-6

Fields = dict[str, Any]  # Any: arguments of transformers' configurations


def unsupported(reason: str) -> ModelUnsupported:
    return ModelUnsupported(reason, hint=_NO_CHOICE)


def attention_fields(file: GGUFFile) -> Fields:
    """Returns the arguments of architectures whose layers have attention and a gated MLP."""
    key = file.architecture
    heads = file.whole(f"{key}.attention.head_count", most=65_536)
    shared = sizes(file)
    head_dim = max(1, shared["hidden_size"] // heads)
    return shared | {
        "intermediate_size": file.whole(f"{key}.feed_forward_length", _expert_width(file), most=MOST_WIDTH),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(file, shared["num_hidden_layers"], heads),
        "head_dim": file.whole(f"{key}.attention.key_length", head_dim, most=65_536),
        "rms_norm_eps": epsilon(file),
        "rope_parameters": rope(file, file.real(f"{key}.rope.freq_base", 10_000.0)),
    }


def sizes(file: GGUFFile) -> Fields:
    """Returns the arguments that every architecture has."""
    key = file.architecture
    width = file.whole(f"{key}.embedding_length", most=2**24)
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != width:
        raise corrupt(f"{EMBEDDING} does not have {key}.embedding_length columns")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "num_hidden_layers": layer_count(file),
        "max_position_embeddings": file.whole(f"{key}.context_length", most=10**9),
        "tie_word_embeddings": OUTPUT not in file.tensors,
        "pad_token_id": None,  # the default of a class may lie beyond the vocabulary
    }


def layer_count(file: GGUFFile) -> int:
    """Returns the number of layers, without those that only draft tokens."""
    key = file.architecture
    blocks = file.whole(f"{key}.block_count", most=min(MOST_LAYERS, len(file.tensors)))
    drafting = file.whole(f"{key}.nextn_predict_layers", 0, least=0, most=blocks - 1)
    return blocks - drafting


def is_recurrent(file: GGUFFile, layers: int) -> list[bool]:
    """Returns for each layer whether it is one without attention, which has no heads for keys."""
    heads = file.per_layer(f"{file.architecture}.attention.head_count_kv", layers, most=65_536)
    return [count == 0 for count in heads]


def _expert_width(file: GGUFFile) -> int | None:
    """Returns the width of an expert: files of models that have nothing else may name only that."""
    key = f"{file.architecture}.expert_feed_forward_length"
    return file.whole(key, most=MOST_WIDTH) if key in file.metadata else None


def _kv_heads(file: GGUFFile, layers: int, heads: int) -> int:
    key = f"{file.architecture}.attention.head_count_kv"
    if not isinstance(file.metadata.get(key), list):
        return file.whole(key, heads, most=heads)
    counts = set(file.per_layer(key, layers, most=heads)) - {0}
    if len(counts) != 1:
        raise unsupported("GGUF files whose layers have different numbers of heads are not supported")
    return counts.pop()


def epsilon(file: GGUFFile) -> float:
    key = f"{file.architecture}.attention"
    if f"{key}.layer_norm_rms_epsilon" not in file.metadata and f"{key}.layer_norm_epsilon" in file.metadata:
        return file.real(f"{key}.layer_norm_epsilon")
    return file.real(
        f"{key}.layer_norm_rms_epsilon", _GEMMA3_EPSILON if file.architecture == "gemma3" else None
    )


def multipliers(file: GGUFFile, head_dim: int) -> Fields:
    """Returns the factors by which Granite's models scale what passes through them."""
    key = file.architecture
    return {
        "attention_multiplier": file.real(f"{key}.attention.scale", head_dim**-0.5),
        "embedding_multiplier": file.real(f"{key}.embedding_scale", 1.0),
        "residual_multiplier": file.real(f"{key}.residual_scale", 1.0),
        "logits_scaling": file.real(f"{key}.logit_scale", 1.0),
    }


def rope(file: GGUFFile, base: float) -> Fields:
    """Returns the settings of the rotary positions. Raises ModelUnsupported for an unknown kind."""
    key = f"{file.architecture}.rope"
    kind = file.text(f"{key}.scaling.type", "none")
    if kind in ("none", "longrope"):  # the latter's factors are tensors
        return {"rope_type": "default", "rope_theta": base}
    factor = file.real(f"{key}.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if kind == "yarn":
        return {"rope_type": "yarn", "rope_theta": base, "factor": factor} | _yarn(file)
    raise unsupported(f"GGUF files with rotary positions of the type {kind[:40]!r} are not supported")


def _yarn(file: GGUFFile) -> Fields:
    key = f"{file.architecture}.rope.scaling"
    original = file.whole(f"{key}.original_context_length", most=10**9)
    names = {
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
        "yarn_attn_factor": "attention_factor",
    }
    given = {
        ours: file.real(f"{key}.{name}") for name, ours in names.items() if f"{key}.{name}" in file.metadata
    }
    return {"original_max_position_embeddings": original} | given


def without_head_dim(fields: Fields) -> Fields:
    """Returns the arguments of architectures in which all heads together are as wide as the model."""
    if fields["head_dim"] * fields["num_attention_heads"] != fields["hidden_size"]:
        raise corrupt("its heads are not as wide as the model")
    return {name: value for name, value in fields.items() if name != "head_dim"}
