"""In 16 bits, a wrong computation does not pass for rounding."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama import modeling_llama

from app.core.errors import ModelUnsupported
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
from app.engine.loading.reference import compute_reference, measure_rounding
from app.engine.loading.self_check import check_packed_path, check_unconverted
from tests.engine.gguf.smollm2 import needs_smollm2, smollm2
from tests.engine.tiny import configs, new_model

MIDDLE = 1  # a layer
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


class OddAttention(modeling_llama.LlamaAttention):
    """On the packed path, its scores have another scale."""

    factor = 1.0

    def forward(  # type: ignore[override]  # it takes what its parent takes
        self, *given: Any, **named: Any
    ) -> tuple[Tensor, Tensor | None]:
        own = self.scaling
        self.scaling = own * self.factor if "attention_batch" in named else own
        try:
            return super().forward(*given, **named)
        finally:
            self.scaling = own


class LlamaRMSNorm(nn.Module):
    """Has the name of a class that has a fused form, and computes something else."""

    def __init__(self, norm: Any, factor: float) -> None:  # transformers' class of this name
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon
        self._norm = norm
        self._factor = factor

    def forward(self, rows: Tensor) -> Tensor:
        normed: Tensor = self._norm(rows)
        return normed * self._factor


def llama(dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    return new_model(configs(300)["llama"], dtype)


def with_odd_attention(dtype: torch.dtype, factor: float) -> PreTrainedModel:
    model = llama(dtype)
    assert isinstance(model.config, LlamaConfig)
    layer: Any = model.get_submodule(f"model.layers.{MIDDLE}")
    odd = OddAttention(model.config, MIDDLE).to(dtype).eval()
    odd.load_state_dict(layer.self_attn.state_dict())
    odd.factor = factor
    layer.self_attn = odd
    return model


def with_odd_norm(factor: float) -> PreTrainedModel:
    model: Any = llama()
    model.model.norm = LlamaRMSNorm(model.model.norm, factor)
    assert isinstance(model, PreTrainedModel)
    return model


@HALVES
@pytest.mark.parametrize("factor", [0.5, 1.25, 2.0])
def test_other_attention_of_one_layer_is_refused(dtype: torch.dtype, factor: float) -> None:
    model = with_odd_attention(dtype, factor)
    with pytest.raises(ModelUnsupported, match="other logits"):
        check_unconverted(model, dtype, compute_reference(model, dtype))


@HALVES
def test_attention_that_is_the_models_own_is_served(dtype: torch.dtype) -> None:
    model = with_odd_attention(dtype, 1.0)
    assert check_packed_path(model, dtype)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_fused_layer_that_computes_something_else_is_refused(factor: float) -> None:
    with pytest.raises(ModelUnsupported, match="other logits"):
        check_packed_path(with_odd_norm(factor))
    assert check_packed_path(with_odd_norm(1.0))


def test_rounding_is_measured_in_16_bits_only() -> None:
    half, full = llama(), llama(torch.float32)
    measured = measure_rounding(half, torch.bfloat16, compute_reference(half, torch.bfloat16))
    assert 0.0 < measured.rounding < 0.1
    reference = compute_reference(full, torch.float32)
    assert measure_rounding(full, torch.float32, reference) == reference


def test_rounding_that_is_known_is_not_measured_again() -> None:
    model = llama()
    known = replace(compute_reference(model, torch.bfloat16), rounding=0.5)
    assert measure_rounding(model, torch.bfloat16, known) is known


@pytest.mark.parametrize(("times", "is_refused"), [(3.5, False), (6, True)])
def test_rounding_may_be_several_times_what_was_measured(times: float, is_refused: bool) -> None:
    reference = replace(compute_reference(llama(), torch.bfloat16), rounding=0.05)
    other = [logits * (1 + 0.05 * times) for logits in reference.logits]
    with pytest.raises(ModelUnsupported) if is_refused else nullcontext():
        reference.refuse_other(other, tolerance=0.1, path="this path")


@needs_smollm2
def test_model_on_which_rounding_has_much_effect_is_served_in_bfloat16() -> None:
    loaded = load(WorkerSpec(str(smollm2()), "smollm2", dtype="bfloat16"), lambda *_: None)
    reference = check_unconverted(loaded.model, loaded.dtype, compute_reference(loaded.model, loaded.dtype))
    assert reference.rounding > 0.03
    assert check_packed_path(loaded.model, loaded.dtype, reference=reference)
