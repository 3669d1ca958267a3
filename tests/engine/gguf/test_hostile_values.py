"""A GGUF file with a hostile number in its metadata loads, or is refused with a reason."""

import math
import struct
from pathlib import Path

import gguf
import pytest

from app.core.errors import ModelUnavailable
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.serving_path import load_checked
from tests.engine.gguf import files, mixed_files, mixed_models

_WHOLE = (0, 1, 3, 2**31, 2**32 - 1)  # the last is -1 for a reader of signed numbers
_REAL = (0.0, -1.0, 1e38, math.nan, math.inf)
_STRUCT = {gguf.GGUFValueType.UINT32: "<I", gguf.GGUFValueType.FLOAT32: "<f"}


def with_value(path: Path, key: str, value: float) -> Path:
    """Returns a file in which the number of that key is another one."""
    field = gguf.GGUFReader(path).fields[key]
    part = struct.pack(_STRUCT[field.types[0]], value)
    name = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", field.types[0])
    content = path.read_bytes()
    start = content.index(name) + len(name)
    changed = path.with_name("changed.gguf")
    changed.write_bytes(content[:start] + part + content[start + len(part) :])
    return changed


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "lfm2moe"])
def test_hostile_numbers_are_refused_or_harmless(architecture: str, tmp_path: Path) -> None:
    if architecture in files.CONFIGS:
        path = files.write(tmp_path / "model.gguf", files.tiny_model(architecture), architecture)
    else:
        model = mixed_models.tiny_model(architecture)
        path = mixed_files.write(tmp_path / "model.gguf", model, architecture)
    fields = gguf.GGUFReader(path).fields
    numbers = {key: field.types[0] for key, field in fields.items() if field.types[:1] != [] and "." in key}
    tried = 0
    for key, kind in numbers.items():
        if kind not in _STRUCT or key.startswith("GGUF."):
            continue
        for value in _REAL if kind == gguf.GGUFValueType.FLOAT32 else _WHOLE:
            spec = WorkerSpec(str(with_value(path, key, value)), "changed", dtype="float32")
            tried += 1
            try:
                load_checked(spec, lambda *stage: None)
            except ModelUnavailable as error:
                assert error.message
    assert tried > 40
