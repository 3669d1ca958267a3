"""Fused layers compute what transformers' own compute."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from app.engine.layers.fused import RMSNorm, RotaryLayer, fuse
from app.engine.layers.packer import Packer
from tests.engine.tiny import TinyModel, configs, new_model

FLOAT32 = Packer.choose(torch.device("cpu"), torch.float32, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_rms_norm_equals_llamas(dtype: torch.dtype) -> None:
    own = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    own.weight.copy_(torch.randn(64))
    for rows in (torch.randn(1, 5, 64), torch.zeros(1, 2, 64), 1e4 * torch.randn(1, 3, 64)):
        torch.testing.assert_close(RMSNorm(own, dtype)(rows.to(dtype)), own(rows.to(dtype)))


@torch.inference_mode()
def test_gelu_equals_gpt2s() -> None:
    model = nn.Sequential(NewGELUActivation())
    fuse(model, FLOAT32)  # type: ignore[arg-type]  # of a model only decoder layers need the config
    assert type(model[0]) is nn.GELU
    values = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(model(values), NewGELUActivation()(values))


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_layers_with_rotary_positions_are_fused(tiny_model: Callable[[str], TinyModel], name: str) -> None:
    layers = tiny_model(name).packed.get_submodule("model.layers")
    assert all(type(layer) is RotaryLayer for layer in layers.children())


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"head_dim": 16}, {"attention_bias": True}])
def test_unusual_llamas_are_served_rightly(
    tokenizer: PreTrainedTokenizerFast, change: dict[str, object]
) -> None:
    """They are fused if that computes the same. `build` compares the logits."""
    config = copy.deepcopy(configs(len(tokenizer))["llama"])
    for key, value in change.items():
        setattr(config, key, value)
    tiny = TinyModel.build(config, tokenizer)
    is_fused = type(tiny.packed.get_submodule("model.layers.0")) is RotaryLayer
    assert is_fused == ("hidden_act" not in change)


def test_fuse_leaves_other_norms_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = new_model(configs(len(tokenizer))["gemma3"])
    before = [type(module) for module in model.modules()]
    fuse(model, FLOAT32)
    assert [type(module) for module in model.modules()] == before
