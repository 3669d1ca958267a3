"""Reads the names, shapes and dtypes of a folder's weights from the headers of its safetensors files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from app.core.model_folder import BrokenFile, safetensors

_DTYPES = {"F32": torch.float32, "F64": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None for one that holds no floating-point numbers of 16 bits or more

    @property
    def count(self) -> int:
        return prod(self.shape)


def stored_tensors(folder: Path) -> Mapping[str, StoredTensor]:
    """Returns the tensors by their names; none if a file cannot be read, as the load itself reports."""
    found: dict[str, StoredTensor] = {}
    try:
        for path in safetensors(folder):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # the file is not a mapping
                    view = file.get_slice(name)
                    found[name] = StoredTensor(tuple(view.get_shape()), _DTYPES.get(view.get_dtype()))
    except (OSError, SafetensorError, BrokenFile):
        return {}
    return found


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Returns the dtype of most weights; None if it is unknown.

    config.json may name another one. Few weights, such as those of norms, often have more bits than the rest.
    """
    counts: Counter[torch.dtype] = Counter()
    for tensor in stored_tensors(folder).values():
        if tensor.dtype is not None:
            counts[tensor.dtype] += tensor.count
    return max(counts, key=counts.__getitem__, default=None)
