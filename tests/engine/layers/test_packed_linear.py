"""Packed and joined layers compute what the layers they replace compute."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu
from transformers import PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from app.engine.layers.packed_linear import HalfLinear, PackedLinear, computes_in_bfloat16
from app.engine.layers.packer import JointLinear, Packer, pack
from tests.engine.tiny import configs, new_model

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(), reason="this processor does not compute in bfloat16"
)
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)], ids=str
)


def layer(inputs: int, outputs: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    torch.manual_seed(outputs)
    return nn.Linear(inputs, outputs, bias=bias, dtype=dtype)


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 33])
@torch.inference_mode()
def test_packed_linear_equals_linear(rows: int, bias: bool, dtype: torch.dtype) -> None:
    own, given = layer(48, 80, dtype, bias), torch.randn(1, rows, 48, dtype=dtype)
    torch.testing.assert_close(Packer.choose(CPU, dtype, dtype).linear(own)(given), own(given))


@dtypes
@torch.inference_mode()
def test_packed_linear_row_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    """Bit for bit, so that a greedy reply is the same for any other sequences in its passes."""
    own, given = layer(256, 512, dtype, bias=False), torch.randn(1, 8, 256, dtype=dtype)
    packed = PackedLinear(own.weight.detach(), None, dtype)
    assert torch.equal(packed(given), torch.cat([packed(row.view(1, 1, -1)) for row in given[0]], dim=1))


@dtypes
@torch.inference_mode()
def test_packer_makes_one_layer_of_several(dtype: torch.dtype) -> None:
    layers = [layer(48, outputs, dtype) for outputs in (32, 16, 64)]
    given = torch.randn(1, 5, 48, dtype=dtype)
    joint = Packer.choose(CPU, dtype, dtype).linear(*layers)
    torch.testing.assert_close(joint(given), torch.cat([own(given) for own in layers], dim=-1))


@torch.inference_mode()
def test_packer_takes_transposed_layers() -> None:
    own = Conv1D(80, 48)  # type: ignore[no-untyped-call]
    given = torch.randn(1, 5, 48)
    torch.testing.assert_close(
        Packer.choose(CPU, torch.float32, torch.float32).linear(own)(given), own(given)
    )


@torch.inference_mode()
def test_packer_widens_weights_that_are_stored_in_fewer_bits() -> None:
    own, given = layer(48, 80, torch.bfloat16), torch.randn(1, 5, 48)
    made = Packer.choose(CPU, torch.bfloat16, torch.float32)
    torch.testing.assert_close(made.linear(own)(given), own.float()(given))


@pytest.mark.parametrize("rows", [0, 1, 8, 33])
@torch.inference_mode()
def test_half_linear_changes_no_weight_of_16_bits(rows: int) -> None:
    own, given = layer(48, 80, torch.bfloat16).float(), torch.randn(1, rows, 48)
    torch.testing.assert_close(HalfLinear(own.weight.detach(), own.bias.detach())(given), own(given))


@torch.inference_mode()
def test_joint_linear_equals_its_layers_in_any_order() -> None:
    layers = [layer(48, outputs, torch.float32) for outputs in (32, 16, 64)]
    joint = JointLinear(Packer.choose(CPU, torch.float32, torch.float32).linear(*layers), [32, 16, 64])
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0)):
        given = torch.randn(1, 5, 48)
        for index in order:
            torch.testing.assert_close(joint.output(index, given), layers[index](given))


@dtypes
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma3"])
@torch.inference_mode()
def test_pack_keeps_the_models_logits(
    tokenizer: PreTrainedTokenizerFast, name: str, dtype: torch.dtype
) -> None:
    model = new_model(configs(len(tokenizer))[name], dtype)
    packed = copy.deepcopy(model)
    pack(packed, Packer.choose(CPU, dtype, dtype))
    assert not any(type(module) in (nn.Linear, Conv1D) for module in packed.modules())
    ids = torch.arange(20).unsqueeze(0)
    own, other = model(ids).logits.float(), packed(ids).logits.float()
    assert (own - other).norm() < (1e-5 if dtype == torch.float32 else 0.05) * own.norm()


def test_pack_leaves_layers_alone_that_have_no_packed_product(tokenizer: PreTrainedTokenizerFast) -> None:
    model = new_model(configs(len(tokenizer))["llama"], torch.float16)
    before = [type(module) for module in model.modules()]
    pack(model, Packer.choose(CPU, torch.float16, torch.float16))
    assert [type(module) for module in model.modules()] == before


def test_computes_in_bfloat16_not_without_onednn() -> None:
    assert not computes_in_bfloat16(torch.ops.an_empty_namespace)


@torch.inference_mode()
def test_half_linear_of_many_blocks_is_one_layer() -> None:
    own, given = layer(48, 80, torch.bfloat16).float(), torch.randn(1, 5, 48)
    made = HalfLinear(own.weight.detach(), own.bias.detach(), block=48 * 7)
    torch.testing.assert_close(made(given), own(given))


@dtypes
@torch.inference_mode()
def test_packed_linear_computes_gelu_with_the_product(dtype: torch.dtype) -> None:
    own, rows = layer(48, 80, dtype), torch.randn(1, 5, 48).to(dtype)
    made = PackedLinear(own.weight.detach(), own.bias.detach(), dtype)
    expected = gelu(own.float()(rows.float()), approximate="tanh")
    error = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(made.gelu(rows).float(), expected, rtol=error, atol=error)
