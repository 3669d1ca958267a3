"""State space layers scan short chunks on the CPU, and are checked without limits of their time steps."""

from math import inf
from pathlib import Path

import torch
from torch import nn
from transformers import Mamba2Config, PreTrainedTokenizerFast

from app.engine.ipc.messages import WorkerSpec
from app.engine.layers.schemes import relative_error
from app.engine.loading.serving_path import load_checked
from app.engine.own_cache.check import OwnPath
from app.engine.own_cache.runner import CachePlace
from app.engine.own_cache.state_space import shorten_scans, unlimited_time_steps
from tests.engine.own_cache.models import ARCHITECTURES
from tests.engine.tiny import new_model

_LIMIT = (0.05, inf)  # above the steps that random weights make


def _config(vocabulary: int, chunk: int = 256) -> Mamba2Config:
    options = {**ARCHITECTURES["mamba2"], "chunk_size": chunk, "bos_token_id": 0, "eos_token_id": 1}
    return Mamba2Config(**options, vocab_size=vocabulary, time_step_limit=_LIMIT)


def _values(model: nn.Module, name: str) -> set[object]:
    return {getattr(layer, name) for layer in model.modules() if hasattr(layer, "ssm_state_size")}


def test_shorter_chunks_change_no_logits() -> None:
    model, ids = new_model(_config(300)), torch.arange(100).reshape(1, -1)
    with torch.inference_mode():
        long = model(input_ids=ids).logits
        shorten_scans(model)
        assert _values(model, "chunk_size") == {32}
        assert relative_error(model(input_ids=ids).logits, long) < 1e-5


def test_chunks_that_are_short_already_stay() -> None:
    model = new_model(_config(300, chunk=16))
    shorten_scans(model)
    assert _values(model, "chunk_size") == {16}


def test_limits_of_time_steps_are_lifted_for_a_while() -> None:
    model = new_model(_config(300))
    with unlimited_time_steps(model):
        assert _values(model, "time_step_limit") == {(0.0, inf)}
    assert _values(model, "time_step_limit") == {_LIMIT}


def test_model_with_limits_of_time_steps_is_served_with_its_cache(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    new_model(_config(len(tokenizer))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = WorkerSpec(str(tmp_path), "mamba2", device="cpu", dtype="float32")
    served = load_checked(spec, lambda *stage: None)
    assert isinstance(served.path, OwnPath)
    assert served.path.options.place is CachePlace.OUTPUT
    assert _values(served.loaded.model, "chunk_size") == {32}
