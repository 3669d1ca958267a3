"""Reads a GGUF model, which may be several files, and checks the values that others ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType

from app.core.gguf_names import gguf_parts
from app.engine.gguf.header import GGUFTensor, Value, corrupt, read_header

_MOST_FLOATS = 65_536  # of a tensor that is no weight


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The content of a GGUF file. The tensors' data is mapped, not read."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, GGUFTensor]

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    def text(self, key: str, default: str | None = None) -> str:
        """Returns the text under the key. Raises ModelCorrupt if it is missing or of another type."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise corrupt(f"{key} must be a text")
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**31) -> int:
        """Returns the whole number under the key. Raises ModelCorrupt if it is missing or out of bounds."""
        value = self.metadata.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise corrupt(f"{key} must be a whole number from {least} to {most}")
        return value

    def per_layer(self, key: str, layers: int, *, most: int) -> list[int]:
        """Returns a whole number for each layer; the file may have one for all. Raises ModelCorrupt."""
        value = self.metadata.get(key)
        numbers = value if isinstance(value, list) else [self.whole(key, least=0, most=most)] * layers
        if len(numbers) != layers:
            raise corrupt(f"{key} must have a number for each of {layers} layers")
        if not all(isinstance(number, int) and 0 <= number <= most for number in numbers):
            raise corrupt(f"{key} must have whole numbers up to {most}")
        return [int(number) for number in numbers]

    def real(self, key: str, default: float | None = None) -> float:
        """Returns the finite positive number under the key. Raises ModelCorrupt if it is anything else."""
        value = self.metadata.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise corrupt(f"{key} must be a positive number")
        return float(value)

    def floats(self, name: str) -> list[float]:
        """Returns the numbers of a small tensor in float32. Raises ModelCorrupt if it is anything else."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.kind != GGMLQuantizationType.F32 or prod(tensor.shape) > _MOST_FLOATS:
            raise corrupt(f"{name} must be a short list of numbers in float32")
        numbers: list[float] = tensor.data.reshape(-1).view(np.float32).tolist()
        if not all(0 < number < float("inf") for number in numbers):
            raise corrupt(f"{name} must have positive numbers")
        return numbers

    def texts(self, key: str) -> list[str]:
        """Returns the list of texts under the key; an empty one without the key. Raises ModelCorrupt."""
        value = self.metadata.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise corrupt(f"{key} must be a list of texts")
        return [str(item) for item in value]

    def numbers(self, key: str) -> list[float]:
        """Returns the list of numbers under the key; an empty one without the key. Raises ModelCorrupt."""
        value = self.metadata.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, int | float) for item in value):
            raise corrupt(f"{key} must be a list of numbers")
        return [float(item) for item in value]


def read(path: Path) -> GGUFFile:
    """Returns the content of the file, and of the others if the model is split into several.

    Raises:
        ModelCorrupt: it is damaged, or not a GGUF file.
        ModelUnsupported: its version or a type of its tensors is unknown.
    """
    headers = [read_header(part) for part in gguf_parts(path)]
    first, *others = [GGUFFile(header.metadata, header.tensors) for header in headers]
    tensors = dict(first.tensors)
    for other in others:
        if tensors.keys() & other.tensors.keys():
            raise corrupt("several of its files have a tensor of one name")
        tensors |= other.tensors
    if first.whole("split.count", 1) != len(others) + 1:
        raise corrupt("it is one of several files, but its name does not end as llama.cpp names them")
    return GGUFFile(first.metadata, tensors)
