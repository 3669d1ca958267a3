"""Owns what is looked at in a model's folder before anything of it is loaded, and what is refused.

An author may have written anything there. Reads only small files, as data.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.core.errors import ModelCorrupt, ModelMissing, ModelNeedsCode, ModelRefused, ModelUnsupported

AGAIN = "Fetch the model again."  # for whoever has a damaged one
_TEMPLATE_FOLDER = "additional_chat_templates"  # the one folder within a model's that is read
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


def refuse_unsafe(folder: Path) -> None:
    """Raises for a folder that is no model, wants code of its own to run, or has weights in no safe form."""
    if not (folder / "config.json").is_file():
        raise ModelMissing(f"{folder} is not a model folder: it has no config.json")
    refuse_strange_files(folder)
    for path in sorted(folder.glob("*config*.json")):
        if _mentions(_json(path), "auto_map"):
            raise ModelNeedsCode(
                f"{path.name} asks to run code from the model's folder (auto_map); that is never done",
                hint="Choose a model whose architecture is part of transformers.",
            )
    _refuse_what_is_not_computed(folder)
    for weights in _weight_files(folder):
        if not weights.is_file():
            raise ModelCorrupt(f"the weights {weights.name} are missing", hint=AGAIN)


def _refuse_what_is_not_computed(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise ModelUnsupported("this is an adapter and no whole model", hint="Merge it into its base model.")
    if _json(folder / "config.json").get("quantization_config") is not None:
        raise ModelUnsupported(
            "the weights are quantised, in a form that the engine does not compute",
            hint="Choose the same model in bfloat16 or float32.",
        )


def refuse_strange_files(folder: Path) -> None:
    """Raises for what would block when read, and for links to where the model has no business."""
    root = folder.resolve()
    # In the Hub's cache the files of snapshots/<commit>/ are links into the same repository's blobs/.
    home = root.parent.parent if root.parent.name == "snapshots" else root
    for path in (*folder.iterdir(), *(folder / _TEMPLATE_FOLDER).glob("*")):
        if not path.resolve().is_relative_to(home):
            raise ModelRefused(f"{path.name} is a link that leaves the model's folder")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelRefused(f"{path.name} is no regular file")


def _weight_files(folder: Path) -> Sequence[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.is_file():
        raise ModelRefused(f"{folder} has no weights as safetensors; other formats can run code when loaded")
    shards = _json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelCorrupt(f"{index.name} lists no weights", hint=AGAIN)
    for name in shards.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise ModelRefused(f"{index.name} names a file outside of the model's folder, or no safetensors")
    return [folder / name for name in sorted(set(shards.values()))]


def _json(path: Path) -> dict[str, Any]:  # whatever the model's author wrote
    try:
        parsed = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error}", hint=AGAIN) from error
    if not isinstance(parsed, dict):
        raise ModelCorrupt(f"{path.name} holds no object", hint=AGAIN)
    return parsed


def _mentions(value: object, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_mentions(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_mentions(inner, key) for inner in value)
