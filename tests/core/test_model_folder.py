import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.core.gguf_names import gguf_parts
from app.core.model_folder import (
    CONFIG,
    INDEX,
    WEIGHTS,
    BrokenFile,
    UnsafeIndex,
    holds_all_bits,
    is_complete,
    is_text,
    model_files,
    read_json,
    safetensors,
    text_files,
    weight_bytes,
    weights_among,
)

TEXTS = {"config.json": b"{}", "tokenizer.json": b"{}"}
DEEP = "[" * 100_000


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def index_of(*names: object) -> bytes:
    return json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}}).encode()


def test_complete_needs_every_shard_and_a_tokenizer(tmp_path: Path) -> None:
    index = index_of("model-1.safetensors", "model-2.safetensors")
    folder = make(tmp_path, TEXTS | {INDEX: index, "model-1.safetensors": b"1"})
    assert not is_complete(folder)
    assert weight_bytes(folder) == 0
    make(folder, {"model-2.safetensors": b"22"})
    assert is_complete(folder)
    assert weight_bytes(folder) == 3
    (folder / "tokenizer.json").unlink()
    assert not is_complete(folder)


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "{}", DEEP, '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": 5}}',
     '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": "pytorch_model.bin"}}'],
)  # fmt: skip
def test_broken_index_makes_a_folder_incomplete(index: str, tmp_path: Path) -> None:
    folder = make(tmp_path, TEXTS | {INDEX: index.encode(), "pytorch_model.bin": b""})
    with pytest.raises(BrokenFile, match=INDEX):
        safetensors(folder)
    assert not is_complete(folder)


def test_index_that_leads_elsewhere_is_unsafe(tmp_path: Path) -> None:
    with pytest.raises(UnsafeIndex):
        safetensors(make(tmp_path, {INDEX: index_of("model-1.safetensors", "/etc/passwd")}))


def test_pickle_counts_only_if_it_is_allowed_and_needed(tmp_path: Path) -> None:
    folder = make(tmp_path, TEXTS | {"pytorch_model.bin": b"pickle"})
    assert not is_complete(folder)
    assert is_complete(folder, takes_pickle=True)
    assert weight_bytes(folder) == 6
    make(folder, {"model.safetensors": b"weights"})
    assert weight_bytes(folder) == 7


def test_path_below_a_file_is_incomplete(tmp_path: Path) -> None:
    make(tmp_path, {"file": b""})
    assert not is_complete(tmp_path / "file" / "model")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "model-1-of-1.safetensors", INDEX], ["model.safetensors"]),
        (["b", "model-2-of-2.safetensors", "model-1-of-2.safetensors", INDEX, "consolidated.safetensors"],
         ["model-1-of-2.safetensors", "model-2-of-2.safetensors", INDEX]),
        (["model-1-of-2.safetensors"], []),
        (["README.md"], []),
    ],
)  # fmt: skip
def test_one_set_of_weights_is_chosen_from_a_listing(names: list[str], chosen: list[str]) -> None:
    assert weights_among(names) == chosen
    with_pickle = [*names, "pytorch_model.bin"]
    assert weights_among(with_pickle) == chosen
    assert weights_among(with_pickle, takes_pickle=True) == (chosen or ["pytorch_model.bin"])


def test_listed_and_present_texts_are_the_same(tmp_path: Path) -> None:
    names = ["config.json", "vocab.txt", "chat_template.jinja", "additional_chat_templates/tools.jinja"]
    others = ["README.md", "onnx/config.json", "additional_chat_templates/notes.txt", "model.safetensors"]
    folder = make(tmp_path, dict.fromkeys(names + others, b""))
    present = {path.relative_to(folder).as_posix() for path in text_files(folder)}
    assert present == {name for name in names + others if is_text(name)} == set(names)
    assert set(model_files(folder)) == {folder / name for name in [*names, "model.safetensors"]}


def test_read_json_does_not_wait_for_a_pipe_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    for name in ("config.json", "link.json", "missing.json"):
        with pytest.raises(BrokenFile, match=name):
            read_json(tmp_path / name)


@pytest.mark.parametrize("name", [CONFIG, INDEX, WEIGHTS, "tokenizer.json"])
def test_folder_with_a_pipe_is_not_complete(tmp_path: Path, name: str) -> None:
    for each in (CONFIG, "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / each).write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert not is_complete(tmp_path)


def test_gguf_file_in_parts_is_complete_with_all_of_them(tmp_path: Path) -> None:
    first, second = (f"m-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2))
    make(tmp_path, {first: b"1"})
    assert not is_complete(tmp_path / first)
    make(tmp_path, {second: b"22"})
    assert gguf_parts(tmp_path / second) == [tmp_path / first, tmp_path / second]
    assert is_complete(tmp_path / first) and weight_bytes(tmp_path / first) == 3


@pytest.mark.parametrize(
    ("names", "model_type", "holds_all"),
    [
        (["model.layers.0.mlp.experts.0.gate_proj.weight"], "qwen3_moe", True),
        (["model.layers.0.block_sparse_moe.experts.0.w1.weight"], "mixtral", True),
        (["model.layers.0.mlp.experts.gate_up_proj"], "gpt_oss", False),
        (["model.layers.0.feed_forward.experts.gate_up_proj"], "llama4_text", True),
        (["model.layers.0.mlp.gate_proj.weight"], "llama", False),
    ],
)
def test_load_holds_all_bits_of_experts_that_are_joined_or_not_rounded(
    tmp_path: Path, names: list[str], model_type: str, holds_all: bool
) -> None:
    config = {CONFIG: json.dumps({"model_type": model_type}).encode()}
    save_file({name: torch.zeros(1) for name in names}, make(tmp_path, config) / WEIGHTS)
    assert holds_all_bits(tmp_path) is holds_all
    (tmp_path / WEIGHTS).unlink()
    index = {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    make(tmp_path, {INDEX: json.dumps(index).encode()})
    assert holds_all_bits(tmp_path) is holds_all


def test_folder_without_readable_files_holds_no_more_than_others(tmp_path: Path) -> None:
    assert not holds_all_bits(tmp_path)
    assert not holds_all_bits(make(tmp_path, {CONFIG: b"{}", WEIGHTS: b"\xff" * 9}))
