"""Reads the names of GGUF files: the parts of one model, and the short names by which users know them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

GGUF = ".gguf"  # the end of the name of a file that holds a whole model
_OLLAMA_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_PART = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
_MOST_PARTS = 1000


def is_gguf(path: str | PurePath) -> bool:
    """Returns whether the name is that of a GGUF file, which holds a whole model, also in Ollama's store."""
    return str(path).lower().endswith(GGUF) or _OLLAMA_BLOB.fullmatch(PurePath(path).name) is not None


def gguf_paths(folder: Path) -> list[Path]:
    """Returns the GGUF files in the folder and in its subfolders, where the Hub's repositories keep parts."""
    return [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if is_gguf(path)]


def is_model_gguf(path: str | PurePath) -> bool:
    """Returns whether the name is that of a language model's GGUF file, not of an encoder of images."""
    return is_gguf(path) and not PurePath(path).name.lower().startswith("mmproj")


def gguf_parts(path: Path) -> list[Path]:
    """Returns the files of the model that this GGUF file belongs to, the one with the metadata first.

    A large model may be split into `NAME-00001-of-00003.gguf` and so on.
    """
    found = _PART.search(path.name)
    if found is None or not 0 < int(found["count"]) <= _MOST_PARTS:
        return [path]
    stem, count = path.name[: found.start()], found["count"]
    return [
        path.with_name(f"{stem}-{number:05}-of-{count}{path.suffix}") for number in range(1, int(count) + 1)
    ]


def gguf_among(names: Iterable[str], wanted: str) -> str | None:
    """Returns the GGUF file that is called `wanted`, or whose name ends with it: `Q4_K_M`, `UD-Q4_K_XL`.

    Of a model that is split into several files, it is the first. The name may include its subfolder.
    """
    return _gguf_index(names).get(wanted.lower())


def gguf_by_kind(names: Iterable[str]) -> dict[str, str]:
    """Returns a repository's GGUF files by the shortest names that find them, such as `Q4_K_M`, sorted."""
    index = _gguf_index(names := list(names))
    kinds = dict[str, str]()
    for path in filter(_begins_model, _in_order(names)):
        known_as = (*_endings(_whole(path).name), str(_whole(path)), str(path))
        kind = next((name for name in known_as if index[name.lower()] == str(path)), None)
        if kind is not None:  # None: another file differs only in upper and lower case
            kinds[kind] = str(path)
    return dict(sorted(kinds.items()))


def _gguf_index(names: Iterable[str]) -> dict[str, str]:
    """Returns the GGUF files by all their names, in lower case. Whole names precede the ends of others."""
    paths = _in_order(names)
    index: dict[str, str] = {}
    for path in paths:
        whole = _whole(path)
        for name in (str(path), path.name, str(whole), whole.name):
            index.setdefault(name.lower(), str(path))
    for path in paths:
        for name in _endings(_whole(path).name):
            index.setdefault(name.lower(), str(path))
    return index


def _in_order(names: Iterable[str]) -> list[PurePosixPath]:
    """Returns the GGUF files of language models, those in subfolders last."""
    paths = [PurePosixPath(name) for name in names if is_model_gguf(name)]
    return sorted(paths, key=lambda path: (len(path.parts), path))


def _begins_model(path: PurePosixPath) -> bool:
    """Returns whether this is a whole model, or the first of its files."""
    found = _PART.search(path.name)
    return found is None or int(found["number"]) == 1


def _whole(path: PurePosixPath) -> PurePosixPath:
    """Returns the path without its extension, and without the number of a part."""
    stem = _stem(path.name)
    return path.with_name(stem) if stem.strip(".") else path


def _stem(name: str) -> str:
    """Returns the name of a GGUF file without its extension, and without the number of a part."""
    found = _PART.search(name)
    return name[: -len(GGUF)] if found is None else name[: found.start()]


def _endings(stem: str) -> Iterator[str]:
    """Yields the ends of a name without its extension, the shortest first: `Q8_0` of `Qwen3-0.6B-Q8_0`."""
    for separator in reversed(list(re.finditer(r"[.-](?=.)", stem))):
        yield stem[separator.end() :]
    yield stem
