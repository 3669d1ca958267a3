"""Weights that come as a pickle are read once, as weights and nothing else."""

import pickle
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelRefused
from app.core.model_folder import text_files
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
from app.engine.loading.pickle_to_safetensors import convert
from tests.engine.tiny import configs, new_model
from tests.hub.hostile import Evil


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny GPT-2 as old repositories hold it: `pytorch_model.bin`, with tied weights in one memory."""
    folder = tmp_path / "old"
    model = new_model(configs(len(tokenizer))["gpt2"])
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickle_is_kept_as_safetensors_from_then_on(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "converted" / "owner" / "old"
    spec = WorkerSpec(str(folder), "old", dtype="float32", converts_to=str(target))
    stages: list[str] = []
    loaded = load(spec, lambda stage, _: stages.append(stage))
    assert stages[0] == "convert"
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert torch.equal(loaded.model.state_dict()["lm_head.weight"], stored["lm_head.weight"])
    (folder / "pytorch_model.bin").unlink()
    assert convert(folder, target) == target
    assert load(WorkerSpec(str(target), "old"), lambda *_: None).context_length == loaded.context_length
    assert [path.name for path in target.parent.iterdir()] == ["old"]


def test_conversion_keeps_every_file_that_is_read(folder: Path, tmp_path: Path) -> None:
    template = folder / "additional_chat_templates" / "tools.jinja"
    template.parent.mkdir(exist_ok=True)
    template.write_text("tools")
    target = convert(folder, tmp_path / "target")
    kept = {path.relative_to(target) for path in text_files(target)}
    assert kept == {path.relative_to(folder) for path in text_files(folder)}
    assert template.relative_to(folder) in kept


def test_pickle_is_refused_where_nobody_vouches_for_it(folder: Path) -> None:
    with pytest.raises(ModelRefused, match="safetensors"):
        load(WorkerSpec(str(folder), "old"), lambda *_: None)


def test_pickle_with_code_is_refused_also_where_somebody_does(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(str(canary))))
    with pytest.raises((ModelRefused, ModelCorrupt)):
        convert(folder, tmp_path / "target")
    torch.save({"a": Evil(str(canary))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="could run code"):
        convert(folder, tmp_path / "target")
    assert not canary.exists()
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("content", [[1], {"a": 1}, {1: torch.ones(1)}, {"a": torch.ones(2, 2).to_sparse()}])
def test_pickle_of_something_else_is_refused(folder: Path, tmp_path: Path, content: object) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="something other"):
        convert(folder, tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80"])
def test_pickle_that_cannot_be_read_is_corrupt(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises((ModelCorrupt, ModelRefused)):
        convert(folder, tmp_path / "target")
