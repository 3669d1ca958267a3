"""Compares config.json with the weights before anything is built from it.

Memory is planned by the size of the weights, while config.json decides how much is built.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.core.model_folder import CONFIG, GENERATION_CONFIG, BrokenFile, read_json
from app.engine.loading.folder_check import library_errors_as
from app.engine.loading.limits.size_limits import MOST_LAYERS
from app.engine.loading.stored_tensors import StoredTensor, stored_tensors

_POSITIVE = (
    "max_position_embeddings",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens")
_MOST_BUFFER_BYTES = 2**30  # of tables that are computed, such as sines, beside the size of the weights
_TOLERANCE = 1.5  # times the parameters that are stored: some weights are stored once and used twice
_AGAIN = "Fetch the model again, or choose another one."


def refuse_wrong_token_ids(folder: Path) -> None:
    """Raises ModelCorrupt if a special token of config.json or generation_config.json has no valid id."""
    for name in (CONFIG, GENERATION_CONFIG):
        if not (folder / name).is_file():
            continue
        try:
            values = read_json(folder / name)
        except BrokenFile as error:
            raise ModelCorrupt(str(error), hint=_AGAIN) from error
        for key in _TOKEN_IDS:
            if not _are_ids(values.get(key)):
                raise ModelCorrupt(f"{name}: {key} must be a number or a list of numbers", hint=_AGAIN)


def _are_ids(value: object) -> bool:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return all(isinstance(each, int) and not isinstance(each, bool) for each in ids)


def refuse_wrong_sizes(config: PreTrainedConfig, folder: Path) -> None:
    """Refuses sizes that are not positive numbers, and a model that is larger than the weights of the folder.

    Raises ModelUnsupported for the former, ModelCorrupt for the latter.
    """
    text = config.get_text_config()
    for name in _POSITIVE:
        value = _size(text, name)
        if value is None or isinstance(value, list) or _is_unlimited(text, name):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelUnsupported(f"config.json: {name} is {value!r}, but must be a positive whole number")
    stored = stored_tensors(folder)
    if not stored:
        return  # the load itself reports the fault of the files
    layers = _size(text, "num_hidden_layers")
    if layers is not None and layers > MOST_LAYERS:
        raise ModelUnsupported(f"config.json: num_hidden_layers is {layers}, more than {MOST_LAYERS:,}")
    if layers is not None and layers > len(stored):
        raise ModelCorrupt(
            f"config.json: num_hidden_layers is {layers}, but the weights are only {len(stored)} tensors",
            hint=_AGAIN,
        )
    model = _outline(config)
    if model is not None:
        _compare(model, stored)
        _refuse_large_buffers(model)


def _size(config: PreTrainedConfig, name: str) -> Any:  # any JSON
    """Returns the value in the configuration; None or a list if it differs from layer to layer."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # of transformers, instead of one of several values
        return None


def _is_unlimited(config: PreTrainedConfig, name: str) -> bool:
    """Returns whether the class itself, not config.json, says -1, as it does if there is no limit."""
    return isinstance(getattr(type(config), name, None), property) and _size(config, name) == -1


def _outline(config: PreTrainedConfig) -> PreTrainedModel | None:
    """Returns the model without memory for its weights; None if it cannot be built, as the load reports."""
    try:
        with library_errors_as(lambda error: ModelUnsupported(str(error))), torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except ModelUnsupported:
        return None
    return model if isinstance(model, PreTrainedModel) else None


def _compare(model: PreTrainedModel, stored: Mapping[str, StoredTensor]) -> None:
    for name, weight in model.named_parameters():
        tensor = stored.get(name)
        if tensor is not None and weight.numel() != tensor.count:
            raise ModelCorrupt(
                f"config.json does not fit the weights: {name} is {list(tensor.shape)} there, "
                f"but {list(weight.shape)} by config.json",
                hint=_AGAIN,
            )
    wanted = sum(weight.numel() for weight in model.parameters())
    found = sum(tensor.count for tensor in stored.values())
    if wanted > _TOLERANCE * found:
        raise ModelCorrupt(
            f"config.json describes {wanted:,} parameters, but the weights hold only {found:,}", hint=_AGAIN
        )


def _refuse_large_buffers(model: PreTrainedModel) -> None:
    """Refuses tables without weights that fill the memory, such as one of every position in the context."""
    size = sum(buffer.nbytes for buffer in model.buffers())
    weights = sum(weight.nbytes for weight in model.parameters())
    if size > max(weights, _MOST_BUFFER_BYTES):
        raise ModelUnsupported(
            f"config.json describes tables of {size / 1e9:,.0f} GB beside the weights",
            hint="Set a smaller max_position_embeddings in config.json.",
        )
