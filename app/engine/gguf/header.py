"""Parses the header of one GGUF file: its metadata, and where its tensors lie.

The file's author is not trusted, so every count and length is compared with the bytes that are there before
anything is built. The gguf package's own reader does not do that, and takes seconds for a vocabulary.
"""

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from app.core.errors import ModelCorrupt, ModelUnsupported

Bytes = NDArray[np.uint8]
Scalar = int | float | bool | str
Value = Scalar | list[Scalar]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, np.dtype[np.generic]] = {
    kind: np.dtype(name) for kind, name in enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))
} | {10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8")}
_MOST_KEYS = 10_000
_MOST_TENSORS = 100_000
_MOST_ITEMS = 4_000_000  # in one array; the largest vocabularies have some 300,000 tokens
_MOST_CHARACTERS = 16_000_000  # bytes of one text
_MOST_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32
_AGAIN = "Fetch the file again, or choose another one."


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor in the file. `shape` is in torch's order: the last dimension is contiguous."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    data: Bytes  # `[*shape[:-1], bytes of one row]`, mapped from the file


@dataclass(frozen=True, slots=True)
class Header:
    """What one file says about itself. The tensors' data is mapped, not read."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, GGUFTensor]


def corrupt(reason: str) -> ModelCorrupt:
    return ModelCorrupt(f"the GGUF file cannot be used: {reason}", hint=_AGAIN)


def read_header(path: Path) -> Header:
    """Returns the header of one file. Raises what `read` of the whole model raises."""
    content = _mapped(path)
    cursor = _Cursor(content)
    if cursor.take(len(MAGIC)) != MAGIC:
        raise corrupt("it does not begin with GGUF")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        raise ModelUnsupported(f"version {version} of GGUF is not supported, only {_VERSIONS}")
    tensor_count = cursor.count(_MOST_TENSORS, "tensors")
    metadata = _metadata(cursor, cursor.count(_MOST_KEYS, "keys"))
    return Header(metadata, _tensors(cursor, tensor_count, _alignment(metadata)))


def _mapped(path: Path) -> Bytes:
    """Returns the file's bytes. Raises ModelCorrupt, also for a pipe or a device, which could block."""
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or not found.st_size:
                raise corrupt("it is empty or not a regular file")
            return np.memmap(file, mode="c")  # private pages: torch takes no read-only ones
    except OSError as error:
        raise corrupt(f"{error.strerror}") from error


class _Cursor:
    """Reads one value after the other. Raises ModelCorrupt at the end of the file."""

    def __init__(self, content: Bytes) -> None:
        self._content = content
        self._view = content.data
        self.position = 0

    def take(self, length: int) -> memoryview:
        end = self.position + length
        if end > len(self._view):
            raise corrupt("it ends in the middle of its header")
        taken = self._view[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def count(self, most: int, things: str) -> int:
        found = self.number("<Q")
        if found > most:
            raise corrupt(f"it announces {found} {things}")
        return found

    def text(self) -> str:
        length = self.count(_MOST_CHARACTERS, "bytes of text")
        return str(self.take(length), "utf-8", "replace")

    def scalars(self, kind: int, count: int) -> list[Scalar]:
        dtype = _SCALARS[kind]
        items: list[Scalar] = np.frombuffer(self.take(dtype.itemsize * count), dtype).tolist()
        return items

    def rest(self, start: int) -> Bytes:
        return self._content[start:]


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text()
        if key in found:
            raise corrupt(f"it has the key {key[:80]} twice")
        found[key] = _value(cursor, cursor.number("<I"))
    return found


def _value(cursor: _Cursor, kind: int) -> Value:
    if kind == _STRING:
        return cursor.text()
    if kind in _SCALARS:
        return cursor.scalars(kind, 1)[0]
    if kind != _ARRAY:
        raise corrupt(f"its metadata has a value of the unknown type {kind}")
    item_kind = cursor.number("<I")
    count = cursor.count(_MOST_ITEMS, "items of an array")
    if item_kind == _STRING:
        return [cursor.text() for _ in range(count)]
    if item_kind not in _SCALARS:
        raise corrupt(f"its metadata has an array of the unknown type {item_kind}")
    return cursor.scalars(item_kind, count)


def _alignment(metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise corrupt("general.alignment must be a power of two")
    return alignment


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the table of tensors. `offset` counts from the start of the data."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // block * size

    @property
    def nbytes(self) -> int:
        return prod(self.shape[:-1]) * self.row_bytes


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    entries = [_entry(cursor) for _ in range(count)]
    start = -(-cursor.position // alignment) * alignment
    data = cursor.rest(start)
    if sum(entry.nbytes for entry in entries) > len(data):
        raise corrupt("its tensors are larger than the file")
    if len({entry.name for entry in entries}) < len(entries):
        raise corrupt("it has several tensors of one name")
    return {entry.name: _tensor(entry, data, alignment) for entry in entries}


def _entry(cursor: _Cursor) -> _Entry:
    name = cursor.text()
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise corrupt(f"a tensor has {dimensions} dimensions")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(dimensions)]))
    kind = _kind(cursor.number("<I"))
    if min(shape) < 1 or prod(shape) > 2**50 or shape[-1] % GGML_QUANT_SIZES[kind][0]:
        raise corrupt(f"a tensor of {kind.name} has the shape {list(shape)}")
    return _Entry(name, kind, shape, cursor.number("<Q"))


def _kind(number: int) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(number)
    except ValueError:
        raise ModelUnsupported(f"the GGUF file has weights of the unknown type {number}") from None


def _tensor(entry: _Entry, data: Bytes, alignment: int) -> GGUFTensor:
    end = entry.offset + entry.nbytes
    if entry.offset % alignment or end > len(data):
        raise corrupt(f"the tensor {entry.name[:80]} lies outside the file")
    rows = data[entry.offset : end].reshape(*entry.shape[:-1], entry.row_bytes)
    return GGUFTensor(entry.name, entry.kind, entry.shape, rows)
