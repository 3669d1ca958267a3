"""Makes the configuration of Gemma 4, whose layers differ in more than their attention window."""

from transformers import Gemma4TextConfig, PreTrainedConfig

from app.engine.gguf.configs.fields import MOST_WIDTH, Fields, epsilon, unsupported
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import corrupt
from app.engine.gguf.tensor_names import EMBEDDINGS_OF_LAYERS, ROPE_FACTORS

_MOST_HEADS = 65_536
_PREFIX = "gemma4.attention"


def gemma4(file: GGUFFile, common: Fields) -> PreTrainedConfig:
    """Returns the configuration of a dense Gemma 4. Raises ModelUnsupported for a mixture of experts."""
    layers = common["num_hidden_layers"]
    window_layers = _window_layers(file, layers)
    if all(window_layers) or window_layers[-1]:
        raise unsupported("GGUF files of gemma4 with a window in the last layer are not supported")
    full = window_layers.index(False)
    heads = file.per_layer(f"{_PREFIX}.head_count_kv", layers, most=_MOST_HEADS)
    kinds = ["sliding_attention" if is_window else "full_attention" for is_window in window_layers]
    return Gemma4TextConfig(
        **common,
        **_widths(file, layers),
        **_embeddings(file),
        **_whole_context(file, heads, window_layers),
        num_attention_heads=file.whole(f"{_PREFIX}.head_count", most=_MOST_HEADS),
        num_key_value_heads=_common_number(heads, window_layers, True) or heads[full],
        attention_k_eq_v=f"blk.{full}.attn_v.weight" not in file.tensors,
        head_dim=file.whole(f"{_PREFIX}.key_length_swa", most=65_536),
        rms_norm_eps=epsilon(file),
        layer_types=kinds,
        sliding_window=file.whole(f"{_PREFIX}.sliding_window"),
        final_logit_softcapping=_soft_cap(file),
        rope_parameters=_rope(file),
    )


def _whole_context(file: GGUFFile, heads: list[int], window_layers: list[bool]) -> Fields:
    """Returns the arguments of the layers that see the whole context, if they differ from the others."""
    return {
        "global_head_dim": file.whole(f"{_PREFIX}.key_length", most=65_536),
        "num_global_key_value_heads": _common_number(heads, window_layers, False),
    }


def _window_layers(file: GGUFFile, layers: int) -> list[bool]:
    """Returns for each layer whether it sees only a window of the context."""
    pattern = file.metadata.get(f"{_PREFIX}.sliding_window_pattern")
    if not isinstance(pattern, list) or len(pattern) != layers:
        raise corrupt(f"{_PREFIX}.sliding_window_pattern must have a value for each layer")
    return [bool(value) for value in pattern]


def _common_number(numbers: list[int], window_layers: list[bool], wanted: bool) -> int | None:
    """Returns the number that all layers of one kind have; None if there are no such layers."""
    found = {number for number, is_window in zip(numbers, window_layers, strict=True) if is_window is wanted}
    if len(found) > 1 or 0 in found:
        raise corrupt(f"{_PREFIX}.head_count_kv differs between layers of one kind")
    return found.pop() if found else None


def _widths(file: GGUFFile, layers: int) -> Fields:
    """Returns the widths of the MLPs; layers that share the keys of others may have twice the width."""
    widths = file.per_layer("gemma4.feed_forward_length", layers, most=MOST_WIDTH)
    shared = file.whole(f"{_PREFIX}.shared_kv_layers", 0, least=0, most=layers - 1)
    is_double = shared > 0 and widths[-1] == 2 * widths[0]
    expected = [widths[0]] * (layers - shared) + [widths[0] * (1 + is_double)] * shared
    if widths != expected or not widths[0]:
        raise corrupt("gemma4.feed_forward_length does not fit the layers that share keys and values")
    return {
        "intermediate_size": widths[0],
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": is_double,
    }


def _embeddings(file: GGUFFile) -> Fields:
    """Returns the sizes of the embeddings that each layer has of its own."""
    width = file.whole("gemma4.embedding_length_per_layer_input", 0, least=0, most=MOST_WIDTH)
    rows = file.tensors.get(EMBEDDINGS_OF_LAYERS)
    fields: Fields = {"hidden_size_per_layer_input": width}
    return fields if rows is None else fields | {"vocab_size_per_layer_input": rows.shape[0]}


def _soft_cap(file: GGUFFile) -> float | None:
    key = "gemma4.final_logit_softcapping"
    return file.real(key) if key in file.metadata else None


def _rope(file: GGUFFile) -> Fields:
    """Returns the rotary positions. Of layers that see the whole context, factors show which parts rotate."""
    full = file.real("gemma4.rope.freq_base", 1_000_000.0)
    window = file.real("gemma4.rope.freq_base_swa", 10_000.0)
    factors = file.floats(ROPE_FACTORS)
    rotated = sum(factor == 1.0 for factor in factors)
    is_known = factors[:rotated] == [1.0] * rotated and all(factor > 1e20 for factor in factors[rotated:])
    if not rotated or not is_known or 2 * len(factors) != file.metadata[f"{_PREFIX}.key_length"]:
        raise unsupported("GGUF files of gemma4 with other rotary positions are not supported")
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": window},
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": full,
            "partial_rotary_factor": rotated / len(factors),
        },
    }
