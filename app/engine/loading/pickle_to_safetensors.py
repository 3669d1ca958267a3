"""Converts `pytorch_model.bin` to safetensors. No other code reads a pickle.

torch's weights-only unpickler builds nothing but tensors. A pickle is read only if the model's catalogue
entry allows it; every other pickle is refused unread.
"""

import os
import pickle
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.core.errors import ModelCorrupt, ModelRefused, ModelUnavailable
from app.core.model_folder import PICKLE, WEIGHTS, text_files
from app.engine.loading.folder_check import library_errors_as


def convert(folder: Path, target: Path) -> Path:
    """Returns `target`, the folder's model with its weights as safetensors. Makes it whole or not at all.

    Raises:
        ModelRefused: the pickle holds more than weights.
        ModelCorrupt: the pickle cannot be read.
    """
    if (target / WEIGHTS).is_file():
        return target
    weights = _separate(_read(folder / PICKLE))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as made:
        for path in text_files(folder):
            copy = Path(made) / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        save_file(weights, Path(made) / WEIGHTS, metadata={"format": "pt"})
        shutil.rmtree(target, ignore_errors=True)
        os.rename(made, target)
        Path(made).mkdir()  # TemporaryDirectory removes it
    return target


def _read(path: Path) -> dict[str, Tensor]:
    def describe(error: Exception) -> ModelUnavailable:
        if isinstance(error, pickle.UnpicklingError):
            more = f"{path.name} holds more than weights, which could run code."
            return ModelRefused(more, hint="Choose another model.")
        return ModelCorrupt(f"{path.name} cannot be read: {type(error).__name__}")

    with library_errors_as(describe):
        weights = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(weights, dict) or not all(map(_is_weight, weights.items())):
        raise ModelRefused(f"{path.name} holds something other than weights.", hint="Choose another model.")
    return weights


def _is_weight(item: tuple[object, object]) -> bool:
    name, tensor = item
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided


def _separate(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors in memory of their own, because safetensors cannot store shared memory."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
