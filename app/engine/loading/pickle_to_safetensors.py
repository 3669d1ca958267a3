"""Owns the one way of `pytorch_model.bin` into this program: read as plain weights, kept as safetensors.

torch's weights-only unpickler builds tensors and nothing else. Only models that the catalogue vouches for get
here; every other pickle is refused unread.
"""

import os
import pickle
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.core.errors import ModelCorrupt, ModelRefused

PICKLE = "pytorch_model.bin"
_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")


def convert(folder: Path, target: Path) -> Path:
    """`target`, holding the folder's model with its weights as safetensors; made whole or not at all.

    Raises ModelRefused where the file holds more than weights, ModelCorrupt where it cannot be read.
    """
    if (target / "model.safetensors").is_file():
        return target
    weights = _separate(_read(folder / PICKLE))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as made:
        for pattern in _TEXTS:
            for path in folder.glob(pattern):
                shutil.copyfile(path, Path(made) / path.name)
        save_file(weights, Path(made) / "model.safetensors", metadata={"format": "pt"})
        shutil.rmtree(target, ignore_errors=True)
        os.rename(made, target)
        Path(made).mkdir()  # for the end of the context to remove
    return target


def _read(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            f"{path.name} holds more than weights, which could run code.", hint="Choose another model."
        ) from error
    except Exception as error:  # anything may stand in the file, and the unpickler raises anything
        raise ModelCorrupt(f"{path.name} cannot be read: {type(error).__name__}") from error
    if not isinstance(weights, dict) or not all(map(_is_weight, weights.items())):
        raise ModelRefused(f"{path.name} holds something else than weights.", hint="Choose another model.")
    return weights


def _is_weight(item: tuple[object, object]) -> bool:
    name, tensor = item
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided


def _separate(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own: safetensors keeps no sharing."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
