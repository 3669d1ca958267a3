"""Packed and joined layers compute what the layers they replace compute."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from app.engine.linear import JointLinear, PackedLinear, computes_in_bfloat16, is_packable, pack
from tests.engine.tiny import configs

needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(), reason="this processor does not compute in bfloat16"
)


def layer(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    torch.manual_seed(outputs)
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 33])
@torch.inference_mode()
def test_packed_linear_equals_linear(rows: int, bias: bool) -> None:
    own, given = layer(48, 80, bias), torch.randn(1, rows, 48, dtype=torch.bfloat16)
    torch.testing.assert_close(PackedLinear(own.weight, own.bias)(given), own(given))


@needs_bfloat16
@torch.inference_mode()
def test_packed_linear_row_does_not_depend_on_its_neighbours() -> None:
    """Bit for bit, so that a greedy reply of a 16-bit model is the same whatever shares its passes."""
    own, given = layer(256, 512, False), torch.randn(1, 8, 256, dtype=torch.bfloat16)
    packed = PackedLinear(own.weight, own.bias)
    assert torch.equal(packed(given), torch.cat([packed(row.view(1, 1, -1)) for row in given[0]], dim=1))


@needs_bfloat16
@torch.inference_mode()
def test_joint_linear_equals_its_layers_in_any_order() -> None:
    layers = [layer(48, outputs, True) for outputs in (32, 16, 64)]
    joint = JointLinear(layers)
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0)):
        given = torch.randn(1, 5, 48, dtype=torch.bfloat16)
        for index in order:
            torch.testing.assert_close(joint.output(index, given), layers[index](given))


@needs_bfloat16
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma3"])
@torch.inference_mode()
def test_pack_keeps_the_models_logits(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs(len(tokenizer))[name], dtype=torch.bfloat16).eval()
    packed = copy.deepcopy(model)
    pack(packed)
    assert not any(type(module) is nn.Linear for module in packed.modules())
    ids = torch.arange(20).unsqueeze(0)
    own, other = model(ids).logits.float(), packed(ids).logits.float()
    assert (own - other).norm() < 0.05 * own.norm()


def test_pack_leaves_float32_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_config(configs(len(tokenizer))["llama"], dtype=torch.float32)
    before = [type(module) for module in model.modules()]
    pack(model)
    assert not is_packable(model)
    assert [type(module) for module in model.modules()] == before


def test_computes_in_bfloat16_not_without_onednn() -> None:
    assert not computes_in_bfloat16(torch.ops.an_empty_namespace)
