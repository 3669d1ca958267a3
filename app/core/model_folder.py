"""Defines what a model folder is: which files are read, which are the weights, and when it is complete.

Everything that lists, fetches, checks or converts models uses this definition. It opens small files only, as
data: an author may have written anything into them.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
TEMPLATE_FOLDER = "additional_chat_templates"  # the only subfolder that is read
_TEXTS = ("*.json", "*.model", "*.txt", "*.jinja", f"{TEMPLATE_FOLDER}/*.jinja")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")  # a plain name, which cannot lead out of the folder
# In a listing, without the index, only the names distinguish shards from other safetensors.
_NUMBERED_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


class BrokenFile(ValueError):
    """A file of the folder cannot be used. The message says which and why."""


class UnsafeIndex(BrokenFile):
    """The index names something that is not a safetensors file in the folder itself."""


def is_complete(folder: Path, *, takes_pickle: bool = False) -> bool:
    """Whether the folder holds a configuration, a tokenizer and every file of the weights."""
    try:
        has_tokenizer = any((folder / name).is_file() for name in _TOKENIZERS)
        return has_tokenizer and (folder / CONFIG).is_file() and bool(weights(folder, takes_pickle))
    except OSError:
        return False


def weights(folder: Path, takes_pickle: bool = False) -> list[Path]:
    """The files of the weights; empty if there are none, or not all of them. A pickle counts only if
    `takes_pickle`, and only without safetensors."""
    with suppress(BrokenFile):
        paths = safetensors(folder)
        if paths and all(path.is_file() for path in paths):
            return paths
    return [folder / PICKLE] if takes_pickle and (folder / PICKLE).is_file() else []


def safetensors(folder: Path) -> list[Path]:
    """The safetensors files that the folder should hold: a single one, or those that the index lists. Empty
    if it has neither.

    Raises:
        UnsafeIndex, BrokenFile: the index cannot be used.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BrokenFile(f"{INDEX} lists no weights")
    for name in shards.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise UnsafeIndex(f"{INDEX} names a file outside of the model's folder, or one of another format")
    return [folder / name for name in sorted(set(shards.values()))]


def weights_among(names: Iterable[str], takes_pickle: bool = False) -> list[str]:
    """The names of the weights in a repository's list of files, the index last; empty if there are none that
    are read. A repository may hold the same weights in several formats."""
    offered = set(names)
    if WEIGHTS in offered:
        return [WEIGHTS]
    shards = sorted(name for name in offered if _NUMBERED_SHARD.fullmatch(name))
    if shards and INDEX in offered:
        return [*shards, INDEX]
    return [PICKLE] if takes_pickle and PICKLE in offered else []


def is_text(name: str) -> bool:
    """Whether a file of this name, relative to the folder, is read beside the weights."""
    path = PurePosixPath("/", name)
    return any(path.match(f"/{pattern}") for pattern in _TEXTS)


def text_files(folder: Path) -> list[Path]:
    """The files that are read beside the weights."""
    return [path for pattern in _TEXTS for path in folder.glob(pattern)]


def model_files(folder: Path) -> list[Path]:
    """Every file that is read."""
    return [*weights(folder, takes_pickle=True), *text_files(folder)]


def weight_bytes(folder: Path) -> int:
    """The size of the weights on the disk; 0 if there are none."""
    with suppress(OSError):
        return sum(path.stat().st_size for path in weights(folder, takes_pickle=True))
    return 0


def read_json(path: Path) -> dict[str, Any]:  # Any: whatever the model's author wrote
    """Raises BrokenFile if the file cannot be read or holds no JSON object."""
    try:
        parsed = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenFile(f"{path.name} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise BrokenFile(f"{path.name} does not hold an object")
    return parsed
