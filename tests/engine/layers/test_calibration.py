"""An 8-bit layer keeps 16-bit rows where rounding its rows would cost too much."""

import pytest
import torch
from torch import nn

from app.engine.gguf.config import config_of
from app.engine.gguf.file import read
from app.engine.gguf.model import build_model
from app.engine.gguf.tokenizer import build_tokenizer
from app.engine.layers.calibration import TEXT, mean_error, record
from app.engine.layers.grouped import GroupedLinear
from app.engine.layers.int8 import DynamicInt8Linear, has_int8_products
from app.engine.layers.packer import Packer
from app.engine.loading.self_check import check_packed_path
from tests.engine.gguf.files import tiny_model
from tests.engine.gguf.smollm2 import needs_smollm2, smollm2

CPU = torch.device("cpu")
needs_int8_products = pytest.mark.skipif(
    not has_int8_products(), reason="without products of integers no rows are rounded here"
)


def packed(layer: nn.Linear, rows: torch.Tensor) -> nn.Module:
    layer.requires_grad_(False)
    packer = Packer.choose(CPU, torch.float32, torch.float32, "int8", calibration={layer: rows})
    return packer.linear(layer)


@needs_int8_products
def test_layer_with_a_few_huge_activations_keeps_its_rows_in_16_bits() -> None:
    torch.manual_seed(0)
    layer, rows = nn.Linear(256, 64), torch.randn(20, 256)
    assert isinstance(packed(layer, rows), DynamicInt8Linear)
    rows[:, 3] = 500.0
    kept = packed(layer, rows)
    assert isinstance(kept, GroupedLinear)
    assert mean_error(kept(rows), layer(rows)) < 0.02


def test_record_has_the_rows_of_every_linear_layer() -> None:
    model = tiny_model("llama")
    rows = record(model, range(30))
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    assert set(rows) == set(layers)
    assert all(rows[layer].shape == (30, layer.in_features) for layer in layers)


@needs_smollm2
def test_smollm2_is_served_in_eight_bits() -> None:
    file = read(smollm2())
    model = build_model(
        file, config_of(file), torch.bfloat16, keeps_blocks=False, report=lambda fraction: None
    )
    ids = build_tokenizer(file).encode(TEXT)
    assert check_packed_path(model, torch.bfloat16, "int8", calibration_ids=ids).weights == "int8"
    assert any(isinstance(module, GroupedLinear) for module in model.modules())
