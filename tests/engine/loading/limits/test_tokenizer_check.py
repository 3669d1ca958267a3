"""Tokenizers whose patterns take for ever are refused in time; those of real models are served."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelRefused
from app.engine.gguf.pre_tokenizers import RULES
from app.engine.loading.limits.tokenizer_check import (
    MOST_TOKENS,
    may_multiply,
    refuse_hostile_tokenizer,
    trial_texts,
)
from app.engine.sandbox.tokenizer_sandbox import TokenizerOutOfBounds, TokenizerSandbox
from tests.hub.hostile import BACKTRACKING

PARTS: dict[str, dict[str, Any]] = {
    "normalizer": {"type": "Replace", "content": ""},
    "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "invert": False},
    "decoder": {"type": "Replace", "content": ""},
}


def with_pattern(part: str, expression: str, nested: bool = False) -> dict[str, Any]:
    found = PARTS[part] | {"pattern": {"Regex": expression}}
    list_names = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
    return {part: {"type": "Sequence", list_names[part]: [found]} if nested else found}


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **parts: Any) -> None:  # any JSON
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


@pytest.mark.parametrize("kind", BACKTRACKING)
@pytest.mark.parametrize("part", PARTS)
def test_pattern_that_backtracks_without_end_is_out_of_bounds(part: str, kind: str) -> None:
    expression = BACKTRACKING[kind]
    sandbox = TokenizerSandbox(time_limit_s=2)
    try:
        with pytest.raises(TokenizerOutOfBounds):
            sandbox.try_out(with_pattern(part, expression), trial_texts([expression]))
    finally:
        sandbox.close()


@pytest.mark.parametrize("part", PARTS)
def test_tokenizer_with_such_a_pattern_within_a_sequence_is_refused(folder: Path, part: str) -> None:
    change(folder, **with_pattern(part, BACKTRACKING["repeated"], nested=True))
    with pytest.raises(ModelRefused, match="patterns"):
        refuse_hostile_tokenizer(folder)


REPLACED = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}


def test_tokenizer_that_makes_texts_far_longer_is_refused(folder: Path) -> None:
    change(folder, normalizer={"type": "Sequence", "normalizers": [REPLACED] * 4})
    with pytest.raises(ModelRefused, match="take too long on short texts"):
        refuse_hostile_tokenizer(folder)


@pytest.mark.parametrize(
    "steps", [[REPLACED], [{"type": "Prepend", "prepend": "ab"}], [{"type": "NFD"}] * 1000]
)
def test_parts_that_may_make_a_text_longer_are_tried_out(steps: list[dict[str, Any]]) -> None:
    assert may_multiply({"normalizer": {"type": "Sequence", "normalizers": steps}})


@pytest.mark.parametrize("pattern", ["String", "Regex"])
def test_usual_parts_need_no_trial(pattern: str) -> None:
    blank = {"type": "Replace", "pattern": {pattern: " "}, "content": "\u2581"}
    steps = [{"type": "Prepend", "prepend": "\u2581"}, blank]
    assert not may_multiply({"normalizer": {"type": "Sequence", "normalizers": steps}})


def test_tokenizer_that_makes_texts_a_little_longer_is_taken(folder: Path) -> None:
    quotes = {"type": "Replace", "pattern": {"String": '"'}, "content": "``"}
    change(folder, normalizer={"type": "Sequence", "normalizers": [quotes]})
    refuse_hostile_tokenizer(folder)


def name_versions(folder: Path, *names: str) -> None:
    """Let the folder say which tokenizers there are for versions of transformers."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fast_tokenizer_files": names}))


def test_tokenizer_for_a_version_of_transformers_is_checked_instead(folder: Path) -> None:
    original = (folder / "tokenizer.json").read_text()
    change(folder, **with_pattern("pre_tokenizer", BACKTRACKING["repeated"]))
    (folder / "tokenizer.json").rename(folder / "tokenizer.4.0.0.json")
    (folder / "tokenizer.json").write_text(original)
    refuse_hostile_tokenizer(folder)
    name_versions(folder, "tokenizer.json", "tokenizer.4.0.0.json", "tokenizer.99.0.json")
    with pytest.raises(ModelRefused, match="patterns"):
        refuse_hostile_tokenizer(folder)
    name_versions(folder, "tokenizer.json", "tokenizer.99.0.json")
    refuse_hostile_tokenizer(folder)


@pytest.mark.parametrize("name", ["../tokenizer.4.0.json", "/etc/tokenizer.4.0.json"])
def test_tokenizer_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    name_versions(folder, name)
    with pytest.raises(ModelRefused, match="outside"):
        refuse_hostile_tokenizer(folder)


@pytest.mark.parametrize("names", [[1], ["tokenizer.x.json"], 5])
def test_names_of_tokenizers_that_make_no_sense_are_corrupt(folder: Path, names: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"fast_tokenizer_files": names}))
    with pytest.raises(ModelCorrupt, match="tokenizer_config"):
        refuse_hostile_tokenizer(folder)


def test_decoder_is_tried_out_on_the_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"]["vocab"]["qz" * 40] = 301
    fields["decoder"] = with_pattern("decoder", r"((?:q[z])+)+\d")["decoder"]
    path.write_text(json.dumps(fields))
    with pytest.raises(ModelRefused, match="patterns"):
        refuse_hostile_tokenizer(folder)


def test_patterns_of_real_models_are_served(folder: Path) -> None:
    patterns = {pattern for rule in RULES.values() for pattern in rule.patterns}
    sandbox = TokenizerSandbox(time_limit_s=60)
    for pattern in patterns:
        sandbox.try_out(with_pattern("pre_tokenizer", pattern), trial_texts(list(patterns)))
    sandbox.close()
    change(folder, **with_pattern("normalizer", " {2,}"))
    refuse_hostile_tokenizer(folder)


def test_vocabulary_of_a_list_is_counted(folder: Path) -> None:
    pieces = [[f"x{number}", -1.0] for number in range(MOST_TOKENS + 1)]
    change(folder, model={"type": "Unigram", "unk_id": 0, "vocab": pieces})
    with pytest.raises(ModelRefused, match="1,000,000 tokens"):
        refuse_hostile_tokenizer(folder)


@pytest.mark.parametrize("model", [None, [], {"vocab": 5}, {"vocab": [[1, 2]]}, {"vocab": {"a": "b"}}])
def test_vocabulary_of_another_form_is_corrupt(folder: Path, model: Any) -> None:
    change(folder, model=model)
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json"):
        refuse_hostile_tokenizer(folder)
