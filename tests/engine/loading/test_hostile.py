"""Hostile repositories are refused with a clear error, and none of their code runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.engine.tiny import configs, new_model
from tests.hub import hostile
from tests.server import ROOT

REFUSALS = {
    "model_refused",
    "model_needs_code",
    "model_unsupported",
    "model_load_failed",
    "model_corrupt",
    "model_missing",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(folder / "sound")
    tokenizer.save_pretrained(folder / "sound")
    (folder / "corpus").mkdir()
    hostile.make(folder / "sound", folder / "corpus")
    return folder / "corpus"


def test_corpus_is_large() -> None:
    assert len(hostile.CORPUS) >= 40


def test_hostile_repositories_are_refused_and_run_nothing(corpus: Path) -> None:
    """Under -O, where an assert keeps nothing out."""
    command = [sys.executable, "-O", str(ROOT / "tests" / "hub" / "hostile.py"), str(corpus)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200)
    outcomes = json.loads(done.stdout)
    wrong = {
        name: outcome
        for name, outcome in outcomes.items()
        if name in hostile.CORPUS and outcome not in REFUSALS
    }
    assert not wrong
    assert {outcomes[name] for name in hostile.HARMLESS} == {"served"}
    assert not Path(hostile.canary_of(corpus / "any")).exists()
