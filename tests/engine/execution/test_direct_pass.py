"""The direct pass computes what the model computes by itself."""

from collections.abc import Callable

import pytest
import torch

from app.engine.execution.attention.varlen import PackedSequence, VarlenAttention
from app.engine.execution.direct_pass import DirectPass
from app.engine.kv.slot import Slot
from tests.engine.tiny import DEVICE, TinyModel

IDS = [7, 38, 131, 286, 5, 70, 12]


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt2"])
@torch.inference_mode()
def test_direct_pass_has_the_logits_of_the_model(tiny_model: Callable[[str], TinyModel], name: str) -> None:
    tiny = tiny_model(name)
    direct = DirectPass.of(tiny.packed)
    assert direct is not None
    length = len(IDS)
    batch = VarlenAttention([PackedSequence(Slot(length), 0, length, 0)])
    logits = direct.logits(IDS, list(range(length)), [0, length - 1], batch)
    ids = torch.tensor([IDS], device=DEVICE)
    expected = tiny.reference(input_ids=ids, use_cache=False).logits[0, [0, -1]]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_direct_pass_leaves_other_models_alone(tiny_model: Callable[[str], TinyModel], name: str) -> None:
    assert DirectPass.of(tiny_model(name).packed) is None
    for kind in ("llama", "gpt2"):
        assert DirectPass.of(tiny_model(kind).reference) is None  # its layers are not fused
