"""A pass in float32 over 16-bit weights gives what a copy in float32 would, and converts little at once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, PreTrainedModel, StableLmConfig

from app.engine.loading.widened_pass import computing_in
from tests.engine.tiny import configs, new_model

IDS = torch.tensor([[7, 38, 131, 5]])


class LargestFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types here
    """Remembers the size of the largest tensor in float32 that was made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float32:
            self.numbers = max(self.numbers, made.numel())
        return made


@torch.inference_mode()
def logits(model: PreTrainedModel) -> Tensor:
    found: Tensor = model(input_ids=IDS.to(model.device), use_cache=False).logits
    return found


def logits_of_copy(model: PreTrainedModel) -> Tensor:
    """Returns the logits of the model in float32, in which it stays."""
    nn.Module.to(model, torch.float32)
    return logits(model)


def dtypes(model: PreTrainedModel) -> set[torch.dtype]:
    return {values.dtype for values in model.parameters()}


@pytest.mark.parametrize("name", sorted(configs(300)))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widened_pass_is_that_of_a_copy(name: str, dtype: torch.dtype) -> None:
    model = new_model(configs(300)[name], dtype)
    with computing_in(torch.float32, model):
        widened = logits(model)
    assert dtypes(model) == {dtype}
    assert widened.dtype == torch.float32
    torch.testing.assert_close(widened, logits_of_copy(model), rtol=1e-4, atol=1e-4)


def test_widened_pass_of_biases_is_that_of_a_copy() -> None:
    config = StableLmConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=300,
        use_qkv_bias=True,
    )
    model = new_model(config, torch.bfloat16)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_()
    with computing_in(torch.float32, model):
        widened = logits(model)
    torch.testing.assert_close(widened, logits_of_copy(model), rtol=1e-4, atol=1e-4)


def test_widened_pass_converts_no_table_whole() -> None:
    rows = 40_000
    config = LlamaConfig(
        vocab_size=rows, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model = new_model(config, torch.bfloat16)
    with LargestFloat32() as largest, computing_in(torch.float32, model):
        logits(model)
    assert 0 < largest.numbers < rows * 64 / 2


class Scaling(nn.Module):
    """Multiplies by a weight that it may share with the module that calls it."""

    def __init__(self, weight: nn.Parameter, inner: nn.Module) -> None:
        super().__init__()
        self.weight, self.inner = weight, inner

    def forward(self, rows: Tensor) -> Tensor:
        product: Tensor = self.inner(rows) @ self.weight
        return product


def test_weight_stays_wide_while_the_outer_of_two_modules_needs_it() -> None:
    model = new_model(configs(300)["gpt2"], torch.bfloat16)
    weight = nn.Parameter(torch.randn(32, 32, dtype=torch.bfloat16))
    layer = model.get_submodule("transformer.h.1")
    layer.mlp = Scaling(weight, Scaling(weight, nn.Identity()))
    with computing_in(torch.float32, model):
        widened = logits(model)
    assert dtypes(model) == {torch.bfloat16}
    torch.testing.assert_close(widened, logits_of_copy(model), rtol=1e-4, atol=1e-4)


def test_model_is_as_before_after_a_pass_that_fails() -> None:
    model = new_model(configs(300)["gpt2"], torch.bfloat16)
    own, layer = logits(model), model.get_submodule("transformer.h.1")
    mlp = layer.mlp
    layer.mlp = Scaling(nn.Parameter(torch.eye(32, dtype=torch.bfloat16)), nn.Module())
    with computing_in(torch.float32, model):
        for _ in range(2):  # a check tries one way after the other
            with pytest.raises(NotImplementedError):
                logits(model)
    assert dtypes(model) == {torch.bfloat16}
    layer.mlp = mlp
    torch.testing.assert_close(logits(model), own)
