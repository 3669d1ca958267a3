"""Folders whose tokenizer is in another file than tokenizer.json, and those with several chat templates."""

import importlib.util
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.core.model_folder import is_complete
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
from tests.engine.tiny import configs, new_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]
has_reader = importlib.util.find_spec("sentencepiece") is not None


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny Llama without tokenizer."""
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(tmp_path)
    return tmp_path


def spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(str(folder), "tiny")


@pytest.mark.skipif(has_reader, reason="sentencepiece is installed here")
@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_load_names_the_package_that_reads_the_only_tokenizer(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x0a\x05pieces")
    with pytest.raises(ModelUnsupported, match=f"no tokenizer.json, only {name}") as caught:
        load(spec(folder), lambda *_: None)
    assert "pip install sentencepiece" in (caught.value.hint or "")


@pytest.mark.skipif(not has_reader, reason="sentencepiece is not installed here")
def test_load_calls_a_damaged_tokenizer_model_corrupt(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"\x0a\x05pieces")
    with pytest.raises(ModelCorrupt):
        load(spec(folder), lambda *_: None)


def test_load_takes_a_vocabulary_of_word_pieces(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    assert is_complete(folder)
    loaded = load(spec(folder), lambda *_: None)
    assert loaded.tokenizer.encode("the cats", add_special_tokens=False) == [5, 6, 7]


def test_load_reads_every_chat_template(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    template: object = load(spec(folder), lambda *_: None).tokenizer.chat_template
    assert template == {"default": tokenizer.chat_template, "tool_use": "with tools"}
