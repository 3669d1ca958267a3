"""Defines a model folder: the files that the server reads, the weights among them, and its completeness.

All code that lists, downloads, checks or converts models uses this definition. It opens only small files, as
data, because their author is not trusted.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from app.core.gguf_names import gguf_parts, is_gguf
from app.core.paths import read_regular

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
ADAPTER_CONFIG = "adapter_config.json"  # of a PEFT adapter, which needs a base model
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TEMPLATE_FOLDER = (
    "additional_chat_templates"  # the only subfolder that the server reads, apart from GGUF files
)
_TEXTS = ("*.json", "*.model", "*.txt", "*.jinja", f"{TEMPLATE_FOLDER}/*.jinja")
TOKENIZER = "tokenizer.json"
PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")  # read by other packages
_TOKENIZERS = (TOKENIZER, *PIECES, "vocab.json", "vocab.txt")
# Of a text, such as JSON. The largest models have 100,000 weights, and vocabularies 262,144 tokens.
MOST_VALUES = 1_000_000
_SEPARATE_EXPERT = b".experts.0."  # in the names of weights if each expert of a mixture has its own
_MOST_NAMES = 16_000_000  # bytes of the names of weights that are searched
# Types of models whose experts keep their bits.
_KEEP_EXPERTS = ("dbrx", "jetmoe", "llama4", "llama4_text", "longcat_flash")
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")  # a plain name, which cannot lead out of the folder
# In a list of files, without the index, only the names distinguish shards from other safetensors.
_NUMBERED_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


class BrokenFile(ValueError):
    """A file of the folder cannot be used. The message names the file and the reason."""


class UnsafeIndex(BrokenFile):
    """The index lists a file that is outside the folder or is not a safetensors file."""


def is_adapter(folder: Path) -> bool:
    """Returns whether the folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def has_tokenizer(folder: Path) -> bool:
    """Returns whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def is_complete(folder: Path, *, takes_pickle: bool = False) -> bool:
    """Returns whether the folder has a configuration, a tokenizer and all files of the weights.

    `folder` may also be a GGUF file, which only has to exist, or an adapter, which has no tokenizer.
    """
    try:
        if is_gguf(folder):
            return bool(weights(folder))
        if is_adapter(folder):
            return (folder / ADAPTER_WEIGHTS).is_file()
        return has_tokenizer(folder) and (folder / CONFIG).is_file() and bool(weights(folder, takes_pickle))
    except OSError:
        return False


def weights(folder: Path, takes_pickle: bool = False) -> list[Path]:
    """Returns the files of the weights; an empty list if any of them is missing.

    A pickle counts only if `takes_pickle` is set and the folder has no safetensors.
    """
    if is_gguf(folder):
        parts = gguf_parts(folder)
        return parts if all(path.is_file() for path in parts) else []
    if is_adapter(folder):
        return [path for path in (folder / ADAPTER_WEIGHTS,) if path.is_file()]
    with suppress(BrokenFile):
        paths = safetensors(folder)
        if paths and all(path.is_file() for path in paths):
            return paths
    return [folder / PICKLE] if takes_pickle and (folder / PICKLE).is_file() else []


def safetensors(folder: Path) -> list[Path]:
    """Returns the safetensors files of a complete folder: a single one, or those that the index lists.

    The list is empty if the folder has neither a single file nor an index.

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
            raise UnsafeIndex(f"{INDEX} lists a file outside the model's folder, or one of another format")
    return [folder / name for name in sorted(set(shards.values()))]


def weights_among(names: Iterable[str], takes_pickle: bool = False) -> list[str]:
    """Returns the names of the weights in a repository's list of files, the index last.

    A repository may have the same weights in several formats. The list is empty if the server reads none.
    """
    offered = set(names)
    if ADAPTER_CONFIG in offered and ADAPTER_WEIGHTS in offered:
        return [ADAPTER_WEIGHTS]
    if WEIGHTS in offered:
        return [WEIGHTS]
    shards = sorted(name for name in offered if _NUMBERED_SHARD.fullmatch(name))
    if shards and INDEX in offered:
        return [*shards, INDEX]
    return [PICKLE] if takes_pickle and PICKLE in offered else []


def is_text(name: str) -> bool:
    """Returns whether the server reads a file with this name, relative to the folder, besides the weights."""
    path = PurePosixPath("/", name)
    return any(path.match(f"/{pattern}") for pattern in _TEXTS)


def text_files(folder: Path) -> list[Path]:
    """Returns the files that the server reads besides the weights."""
    return [path for pattern in _TEXTS for path in folder.glob(pattern)]


def model_files(folder: Path) -> list[Path]:
    """Returns all files that the server reads."""
    return [*weights(folder, takes_pickle=True), *text_files(folder)]


def weight_bytes(folder: Path) -> int:
    """Returns the size of the weights on the disk; 0 without weights."""
    with suppress(OSError):
        return sum(path.stat().st_size for path in weights(folder, takes_pickle=True))
    return 0


def is_in_16_bits(folder: Path) -> bool:
    """Returns whether the folder's configuration says that its weights are stored in 16 bits."""
    try:
        config = read_json(folder / CONFIG)
    except BrokenFile:
        return False
    return config.get("dtype", config.get("torch_dtype")) in ("bfloat16", "float16")


def holds_all_bits(folder: Path) -> bool:
    """Returns whether a load has all weights in memory as stored, also if they are rounded to fewer bits.

    Experts that are stored one by one are joined before they are rounded, and some models' are not rounded.
    """
    with suppress(BrokenFile, OSError):
        if read_json(folder / CONFIG).get("model_type") in _KEEP_EXPERTS:
            return True
        return _SEPARATE_EXPERT in _weight_names(folder)
    return False


def _weight_names(folder: Path) -> bytes:
    """Returns a text with the names of the weights: the header of the only file, or the index."""
    if not (folder / WEIGHTS).is_file():
        return read_regular(folder / INDEX)
    with (folder / WEIGHTS).open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), _MOST_NAMES))


def read_json(path: Path) -> dict[str, Any]:  # Any: the model's author may have written anything
    """Returns the JSON object in the file. Raises BrokenFile if it cannot be read or is not an object."""
    try:
        content = read_regular(path)
        if content.count(b",") > MOST_VALUES:  # each may take twenty times its bytes
            raise ValueError(f"it has more than {MOST_VALUES:,} values")
        parsed = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenFile(f"{path.name} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise BrokenFile(f"{path.name} is not a JSON object")
    return parsed
