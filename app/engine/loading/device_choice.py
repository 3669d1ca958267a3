"""Picks the device and the dtypes of a model: of its computation, and of its weights while they load."""

import torch

from app.core.errors import ModelLoadFailed
from app.engine.layers.packed_linear import computes_in_bfloat16

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HALVES = (torch.bfloat16, torch.float16)


def pick_device(name: str) -> torch.device:
    """Returns the device; `auto` prefers CUDA, then MPS. Raises ModelLoadFailed if the machine lacks it."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_there in available.items() if is_there))
    if not available.get(name, False):
        raise ModelLoadFailed(f"the device {name} is not available here", hint="Use cpu or auto.")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """Returns the dtype to compute in. For `auto`, 16 bits on CUDA; elsewhere float32, or bfloat16 if the
    weights are `stored` in 16 bits and bfloat16 is fast."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    is_fast = device.type == "mps" or computes_in_bfloat16()
    return torch.bfloat16 if is_fast and stored in _HALVES else torch.float32


def loaded_dtype(stored: torch.dtype | None, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Returns the dtype to load weights in. On the CPU, 16-bit weights stay mapped until they are packed."""
    if stored in _HALVES and device.type == "cpu" and dtype == torch.float32:
        return stored
    return dtype
