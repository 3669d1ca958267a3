"""Merges a PEFT LoRA adapter into the weights of its base model. The package `peft` is optional.

The adapter's author is not trusted: of its configuration only known fields are used, and no code or pickle.
"""

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.core.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BrokenFile, read_json
from app.engine.loading.folder_check import AGAIN, library_errors_as, refuse_strange_files
from app.engine.loading.limits.size_limits import refuse_many_tensors

# The fields of LoraConfig that determine the merged weights.
_FIELDS = {
    *("r", "lora_alpha", "target_modules", "exclude_modules", "fan_in_fan_out", "bias", "lora_bias"),
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
    *("modules_to_save",),
}
# Those that matter only for training, or say where the adapter comes from.
_IGNORED = {
    *("task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("lora_dropout", "init_lora_weights", "auto_mapping", "loftq_config", "eva_config", "megatron_core"),
    *("qalora_group_size", "runtime_config"),
}
_PREFIX = "base_model.model."  # of the names of the stored weights
# Names of modules, in which parts may be repeated. Groups, or more repetitions, could take for ever to match.
_PATTERN = re.compile(r"[\w.^$\\*+?-]{1,200}")
_MOST_REPETITIONS = 2
_INITIAL = (None, True, False, "gaussian", "orthogonal", "eva")  # the others change the base model as well


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Returns the model with the adapter's changes added to its weights.

    Raises:
        ModelUnsupported: `peft` is not installed, or this is another kind of adapter.
        ModelCorrupt: the adapter does not fit the model, or cannot be read.
    """
    refuse_strange_files(folder)
    options, weights = _options(folder), _weights(folder)
    _refuse_large_ranks(options, weights)
    _refuse_slow_patterns(options)
    options |= _targets(options, weights)
    if find_spec("peft") is None:
        raise ModelUnsupported(
            "merging an adapter needs the Python package peft", hint="Install it: pip install peft"
        )
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict  # optional, and slow to import

    with library_errors_as(_does_not_fit), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about names that peft uses
        config = LoraConfig(**options, task_type="CAUSAL_LM")
        joined = get_peft_model(model, config, low_cpu_mem_usage=True)  # without memory for its weights
        _make_room(joined, sum(weight.numel() for weight in weights.values()))
        found: Any = set_peft_model_state_dict(joined, weights)  # torch's lists of keys
        missing = [key for key in found.missing_keys if "lora_" in key]
        if missing or found.unexpected_keys:
            raise ValueError(f"{len(missing)} weights are missing, {len(found.unexpected_keys)} are unknown")
        merged = joined.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged


def _options(folder: Path) -> dict[str, Any]:  # any JSON
    try:
        written = read_json(folder / ADAPTER_CONFIG)
    except BrokenFile as error:
        raise ModelCorrupt(str(error), hint=AGAIN) from error
    if written.get("peft_type") != "LORA":
        raise ModelUnsupported(f"{ADAPTER_CONFIG}: peft_type must be LORA")
    for name, value in written.items():
        if value and name not in _FIELDS | _IGNORED:
            raise ModelUnsupported(f"{ADAPTER_CONFIG}: {name[:40]} is not supported")
    if written.get("init_lora_weights") not in _INITIAL:
        raise ModelUnsupported(f"{ADAPTER_CONFIG}: this adapter also changes the weights of its base model")
    return {name: value for name, value in written.items() if name in _FIELDS and value is not None}


def _weights(folder: Path) -> dict[str, Any]:  # tensors, for peft
    with library_errors_as(lambda error: ModelCorrupt(f"{ADAPTER_WEIGHTS} cannot be read: {error}")):
        refuse_many_tensors([folder / ADAPTER_WEIGHTS])
        return load_file(folder / ADAPTER_WEIGHTS)


def _refuse_large_ranks(options: dict[str, Any], weights: dict[str, Any]) -> None:  # as above
    """Refuses ranks that no stored weight has, for which peft could not even describe its parameters."""
    largest = max((size for weight in weights.values() for size in weight.shape), default=0)
    pattern = options.get("rank_pattern", {})
    ranks = [options.get("r", 0), *(pattern.values() if isinstance(pattern, dict) else ())]
    if not all(isinstance(rank, int) and 0 <= rank <= largest for rank in ranks):
        raise ModelCorrupt(f"{ADAPTER_CONFIG}: r does not fit the weights", hint=AGAIN)


def _refuse_slow_patterns(options: dict[str, Any]) -> None:  # as above
    for field in ("rank_pattern", "alpha_pattern", "layers_pattern", "modules_to_save"):
        value = options.get(field) or []
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list | dict):
            raise ModelCorrupt(f"{ADAPTER_CONFIG}: {field} holds no patterns", hint=AGAIN)
        if not all(isinstance(pattern, str) and _is_quick(pattern) for pattern in patterns):
            raise ModelUnsupported(f"{ADAPTER_CONFIG}: a pattern of {field} is too complicated")


def _is_quick(pattern: str) -> bool:
    repetitions = sum(map(pattern.count, "*+?"))
    return _PATTERN.fullmatch(pattern) is not None and repetitions <= _MOST_REPETITIONS


def _targets(options: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:  # as above
    """Returns options that name the modules of the stored weights, in place of regular expressions."""
    targets = options.get("target_modules")
    is_plain = isinstance(targets, list) or targets == "all-linear"
    if is_plain and not isinstance(options.get("exclude_modules"), str):
        return {}
    names = {name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in weights if ".lora_" in name}
    unused = ("exclude_modules", "layers_to_transform", "layers_pattern")
    return {"target_modules": sorted(names), **dict.fromkeys(unused)}


def _make_room(joined: nn.Module, stored: int) -> None:
    """Gives the adapter's parameters memory, unless there are more of them than `stored` numbers."""
    wanted = [
        (module, name, weight)
        for module in joined.modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.is_meta
    ]
    if sum(weight.numel() for _, _, weight in wanted) > stored:
        raise ModelCorrupt(f"{ADAPTER_CONFIG} describes more weights than are stored", hint=AGAIN)
    for module, name, weight in wanted:
        setattr(module, name, nn.Parameter(torch.zeros_like(weight, device="cpu"), requires_grad=False))


def _does_not_fit(error: Exception) -> ModelCorrupt:
    return ModelCorrupt(
        f"the adapter does not fit the model: {error}", hint="Name the base model that it was made for."
    )
