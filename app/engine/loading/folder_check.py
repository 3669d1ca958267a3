"""Checks a model folder before anything is loaded from it, and refuses unsafe and unsupported models.

The folder's author is not trusted. Only small files are read, as data.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.core.errors import (
    ModelCorrupt,
    ModelMissing,
    ModelNeedsCode,
    ModelRefused,
    ModelUnavailable,
    ModelUnsupported,
)
from app.core.model_folder import (
    ADAPTER_CONFIG,
    CONFIG,
    TEMPLATE_FOLDER,
    BrokenFile,
    UnsafeIndex,
    is_adapter,
    read_json,
    safetensors,
)
from app.engine.loading.limits.size_limits import refuse_large_text, refuse_many_tensors
from app.engine.memory import is_exhaustion

AGAIN = "Fetch the model again."  # the hint for a damaged model
_LONGEST_NAME = 200  # characters that are shown of a name in a model's files


@contextmanager
def library_errors_as(describe: Callable[[Exception], ModelUnavailable]) -> Iterator[None]:
    """Raises the error that `describe` returns for one of a library that reads the model's files.

    A file may hold anything, and the libraries raise anything, even plain Exception. An error that means that
    memory has run out stays as it is: the files are in order then.
    """
    try:
        yield
    except ModelUnavailable:
        raise
    except Exception as error:
        if is_exhaustion(error):
            raise
        raise describe(error) from error


def refuse_unsafe(folder: Path) -> None:
    """Raises ModelUnavailable if the folder has no model, needs code of its own, or has no safe weights."""
    if is_adapter(folder):
        raise _needs_base(folder)
    if not (folder / CONFIG).is_file():
        raise ModelMissing(f"{folder} is not a model folder: it has no {CONFIG}")
    refuse_strange_files(folder)
    for path in sorted(folder.glob("*config*.json")):
        if _mentions(_json(path), "auto_map"):
            raise ModelNeedsCode(
                f"{path.name} asks to run code from the model's folder (auto_map); this server never runs it",
                hint="Choose a model whose architecture is part of transformers.",
            )
    _refuse_unsupported(folder)
    paths = _weight_files(folder)
    for weights in paths:
        if not weights.is_file():
            raise ModelCorrupt(f"the weights {weights.name} are missing", hint=AGAIN)
    refuse_many_tensors(paths)


def _needs_base(folder: Path) -> ModelUnsupported:
    base = _json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    named = base[:_LONGEST_NAME] if isinstance(base, str) and base else "its base model"
    return ModelUnsupported(
        f"this is an adapter, not a whole model: it needs {named}",
        hint="Name both as BASE+ADAPTER, or set `adapter` for the base in the models file.",
    )


def _refuse_unsupported(folder: Path) -> None:
    if _json(folder / CONFIG).get("quantization_config") is not None:
        raise ModelUnsupported(
            "the engine does not support the quantisation of these weights",
            hint="Choose the same model in bfloat16 or float32.",
        )


def refuse_strange_files(folder: Path) -> None:
    """Raises ModelRefused for files that would block or fill the memory, and for links out of the folder."""
    root = folder.resolve()
    # In the Hub's cache the files of snapshots/<commit>/ are links into the same repository's blobs/.
    home = root.parent.parent if root.parent.name == "snapshots" else root
    for path in (*folder.iterdir(), *(folder / TEMPLATE_FOLDER).glob("*")):
        if not path.resolve().is_relative_to(home):
            raise ModelRefused(
                f"{path.name} is a link that leaves the model's folder",
                hint="Name the folder that the links lead to, or copy the files: cp -rL FOLDER COPY.",
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelRefused(f"{path.name} is not a regular file")
        refuse_large_text(path)


def _weight_files(folder: Path) -> list[Path]:
    try:
        paths = safetensors(folder)
    except UnsafeIndex as error:
        raise ModelRefused(str(error)) from error
    except BrokenFile as error:
        raise ModelCorrupt(str(error), hint=AGAIN) from error
    if not paths:
        raise ModelRefused(f"{folder} has no weights as safetensors; other formats can run code when loaded")
    return paths


def _json(path: Path) -> dict[str, Any]:  # Any: the model's author may have written anything
    try:
        return read_json(path)
    except BrokenFile as error:
        raise ModelCorrupt(str(error), hint=AGAIN) from error


def _mentions(value: object, key: str) -> bool:
    pending = [value]
    while pending:
        match pending.pop():
            case dict() as found:
                if key in found:
                    return True
                pending.extend(found.values())
            case list() as found:
                pending.extend(found)
    return False
