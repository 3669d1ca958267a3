"""Files that hold more than those of any real model are refused before a library reads them."""

import json
import struct
from pathlib import Path

import pytest
from transformers import GPTJConfig

from app.core.errors import ModelCorrupt, ModelRefused, ModelUnsupported
from app.engine.loading.limits.config_check import refuse_wrong_sizes
from app.engine.loading.limits.size_limits import refuse_large_text, refuse_many_tensors
from tests.engine.tiny import new_model


def with_header(path: Path, header: bytes, rest: int = 0) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(rest))
    return path


def tensors(count: int) -> bytes:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({f"w{number}": entry for number in range(count)}).encode()


def test_tensors_of_all_files_count(tmp_path: Path) -> None:
    first, second = (with_header(tmp_path / f"{name}.safetensors", tensors(120_000)) for name in "ab")
    refuse_many_tensors([first])
    with pytest.raises(ModelRefused, match="200,000"):
        refuse_many_tensors([first, second])


def test_tensors_whose_fields_are_written_with_escapes_count(tmp_path: Path) -> None:
    header = tensors(200_001).replace(b"data_offsets", rb"data\u005foffsets")
    with pytest.raises(ModelRefused, match="200,000"):
        refuse_many_tensors([with_header(tmp_path / "a.safetensors", header)])


def test_long_header_is_refused_whatever_it_holds(tmp_path: Path) -> None:
    path = with_header(tmp_path / "a.safetensors", b" " * 33_000_000, rest=1)
    with pytest.raises(ModelRefused, match="32 MB"):
        refuse_many_tensors([path])


def test_weights_that_cannot_be_read_are_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()  # any user fails to read it, even root
    with pytest.raises(ModelCorrupt, match=r"a\.safetensors cannot be read"):
        refuse_many_tensors([tmp_path / "a.safetensors"])


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("config.json", b"[],", True),
        ("added_tokens.json", b"[],", True),
        ("vocab.txt", b"ab\n", True),
        ("tokenizer.json", b"[],", False),
        ("notes.md", b"[],", False),
    ],
)
def test_text_with_a_million_values_is_refused(
    tmp_path: Path, name: str, value: bytes, is_refused: bool
) -> None:
    (tmp_path / name).write_bytes(value * 1_000_000)
    refuse_large_text(tmp_path / name)
    (tmp_path / name).write_bytes(value * 1_000_001)
    if is_refused:
        with pytest.raises(ModelRefused, match="1,000,000 values"):
            refuse_large_text(tmp_path / name)
    else:
        refuse_large_text(tmp_path / name)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.txt", "chat_template.jinja", "tokenizer.json"])
def test_text_with_too_many_bytes_is_refused(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(64_000_001)
    with pytest.raises(ModelRefused, match="MB"):
        refuse_large_text(tmp_path / name)


def test_tables_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    config = GPTJConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=4, n_positions=64)
    new_model(config).save_pretrained(tmp_path)
    refuse_wrong_sizes(config, tmp_path)
    config.n_positions = config.max_position_embeddings = 10**9
    with pytest.raises(ModelUnsupported, match="tables of 16 GB"):
        refuse_wrong_sizes(config, tmp_path)
