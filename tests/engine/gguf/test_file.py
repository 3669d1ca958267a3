"""A GGUF file of a hostile author is refused with a reason, in bounded time and memory."""

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType as Kind

from app.core.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported
from app.engine.gguf.file import read
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
from tests.engine.gguf.files import tiny_model, write

_MOST_BYTES = 64 * 2**20  # that a refusal may allocate; the file has some 500 KB
_MUTATIONS = 200


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write(path, tiny_model("llama"), "llama", Kind.Q8_0).read_bytes()


def header(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


HOSTILE = {
    "empty": b"",
    "another magic": b"GGML" + bytes(100),
    "endless keys": header(keys=2**63),
    "endless tensors": header(tensors=2**40),
    "endless text": header(keys=1) + struct.pack("<Q", 2**62),
    "text beyond the end": header(keys=1) + struct.pack("<Q", 15_000_000) + b"a",
    "endless array": header(keys=1) + pair(b"a", 9, struct.pack("<IQ", 4, 2**60)),
    "array beyond the end": header(keys=1) + pair(b"a", 9, struct.pack("<IQ", 8, 3_000_000)),
    "array of arrays": header(keys=1) + pair(b"a", 9, struct.pack("<IQ", 9, 1)) + bytes(64),
    "unknown type of value": header(keys=1) + pair(b"a", 77, bytes(64)),
    "key twice": header(keys=2) + pair(b"a", 0, b"\1") + pair(b"a", 0, b"\1"),
    "alignment of zero": header(keys=1) + pair(b"general.alignment", 4, bytes(4)),
    "tensor beyond the end": header(tensors=1) + tensor(b"a", (32,)) + bytes(64),
    "offset beyond the end": header(tensors=1) + tensor(b"a", (8,), offset=2**62) + bytes(96),
    "crooked offset": header(tensors=1) + tensor(b"a", (8,), offset=1) + bytes(96),
    "huge tensor": header(tensors=1) + tensor(b"a", (2**40, 2**40)) + bytes(64),
    "no values": header(tensors=1) + tensor(b"a", (0, 4)) + bytes(64),
    "many dimensions": header(tensors=1) + tensor(b"a", (1,) * 9) + bytes(64),
    "part of a block": header(tensors=1) + tensor(b"a", (33,), kind=8) + bytes(64),
    "tensor twice": header(tensors=2) + 2 * tensor(b"a", (4,)) + bytes(96),
    "tensors over each other": header(tensors=2) + tensor(b"a", (8,)) + tensor(b"b", (8,)) + bytes(40),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_read_refuses_a_hostile_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hostile.gguf").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelCorrupt):
            read(tmp_path / "hostile.gguf")
        assert tracemalloc.get_traced_memory()[1] < _MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_read_refuses_another_version(tmp_path: Path, version: int) -> None:
    (tmp_path / "other.gguf").write_bytes(header(version=version))
    with pytest.raises(ModelUnsupported, match=f"version {version} "):
        read(tmp_path / "other.gguf")


def test_read_refuses_an_unknown_type_of_weights(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(header(tensors=1) + tensor(b"a", (32,), kind=999) + bytes(64))
    with pytest.raises(ModelUnsupported, match="type 999"):
        read(tmp_path / "other.gguf")


def test_read_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf", Path("/dev/zero")):
        with pytest.raises(ModelCorrupt):
            read(path)


def test_read_refuses_a_file_cut_at_any_place(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut.gguf"
    for length in (*range(0, len(content), 1024), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelCorrupt):
            read(path)


def test_a_changed_file_loads_or_is_refused_with_a_reason(tmp_path: Path, content: bytes) -> None:
    path, rng = tmp_path / "changed.gguf", random.Random(0)
    # The vocabulary ends before the weights begin, and everything before them is structure.
    structure = content.index(b"blk.1.ffn_down.weight") + 64
    for _ in range(_MUTATIONS):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(structure)
            changed[at] = rng.choice((0, 1, 255, rng.randrange(256)))
        path.write_bytes(changed)
        try:
            load(WorkerSpec(str(path), "changed", dtype="float32"), lambda *stage: None)
        except ModelUnavailable as error:
            assert error.message
