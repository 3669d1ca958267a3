"""Owns what can be seen of a model's folder without opening its weights: is it whole, and how large."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
TEXTS = ("*.json", "*.model", "*.txt", "*.jinja", "additional_chat_templates/*.jinja")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def is_complete(folder: Path, *, takes_pickle: bool = False) -> bool:
    """Whether the folder holds a configuration, a tokenizer and every file of the weights."""
    try:
        has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
        return has_tokenizer and (folder / "config.json").is_file() and bool(weights(folder, takes_pickle))
    except OSError:
        return False


def weights(folder: Path, takes_pickle: bool = False) -> list[Path]:
    """The files of the weights; none where one is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = _shards(folder)
    if shards and all(shard.is_file() for shard in shards):
        return shards
    return [folder / PICKLE] if takes_pickle and (folder / PICKLE).is_file() else []


def model_files(folder: Path) -> list[Path]:
    """What is read of a folder; it may hold the same weights in other formats too."""
    return [*weights(folder, takes_pickle=True), *(path for text in TEXTS for path in folder.glob(text))]


def weight_bytes(folder: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in weights(folder, takes_pickle=True))
    return 0


def _shards(folder: Path) -> list[Path]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = set(index["weight_map"].values())
        return [folder / name for name in sorted(names)] if all(Path(n).name == n for n in names) else []
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []


def cache_name(location: str) -> str:
    """The folder of a repository in the Hub's cache."""
    return "models--" + location.replace("/", "--")


def snapshots(repository: Path, revision: str | None = None) -> Iterator[Path]:
    """The snapshot that the revision points to, in the layout of the Hub's cache; then, if none is asked
    for, any other."""
    with suppress(OSError):  # a cache that this user may not read holds nothing for them
        ref = repository / "refs" / (revision or "main")
        if ref.is_file():
            yield repository / "snapshots" / ref.read_text(encoding="utf-8").strip()
        if revision is not None:
            yield repository / "snapshots" / revision
        elif (repository / "snapshots").is_dir():
            yield from sorted((repository / "snapshots").iterdir())
