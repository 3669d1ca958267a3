"""The table of rotary positions gives what the model's own module computes."""

import pytest
import torch
from hypothesis import given, strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from app.engine.execution.attention.rope import Rope, RopeTable, rope_of
from tests.engine.tiny import DEVICE

_KINDS = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 128},
    "dynamic": {"factor": 4.0},
}


def rotary(kind: str) -> LlamaRotaryEmbedding:
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **_KINDS[kind]},
    )
    return LlamaRotaryEmbedding(config).to(DEVICE)


def own_rope(module: LlamaRotaryEmbedding, positions: list[int], hidden: torch.Tensor) -> Rope:
    return rope_of(*module(hidden, torch.tensor([positions], device=DEVICE)))


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_table_has_the_cosines_and_sines_of_the_model(kind: str, dtype: torch.dtype) -> None:
    hidden, table = torch.zeros(1, 1, 8, dtype=dtype, device=DEVICE), RopeTable(rotary(kind))
    for positions in ([0, 1, 2], [7], [1500, 3], [4000]):
        expected = own_rope(rotary(kind), positions, hidden)
        for own, found in zip(expected, table.rows(positions, hidden), strict=True):
            torch.testing.assert_close(found.reshape(own.shape), own, rtol=0, atol=0)
            assert found.dtype == dtype


@given(st.lists(st.lists(st.integers(0, 5000), min_size=1, max_size=4), min_size=1, max_size=5))
def test_rope_table_does_not_depend_on_the_order_of_passes(passes: list[list[int]]) -> None:
    hidden, table = torch.zeros(1, 1, 8, device=DEVICE), RopeTable(rotary("default"))
    for positions in passes:
        cos, _ = table.rows(positions, hidden)
        assert torch.equal(cos.reshape(-1), own_rope(rotary("default"), positions, hidden)[0].reshape(-1))
