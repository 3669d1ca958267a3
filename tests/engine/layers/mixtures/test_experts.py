"""Quantised experts compute what the model's own would with the same groups of integers, in every form."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from app.core.literals import Quantization
from app.engine.ipc.messages import WorkerSpec
from app.engine.layers.compiled.linear import CompiledExperts, CompiledLinear
from app.engine.layers.compiled.product import grouped_product
from app.engine.layers.group_search import in_eight_bits, in_four_bits
from app.engine.layers.grouped_weight import GroupedWeight
from app.engine.layers.mixtures.experts import QuantisedExperts, pack_experts
from app.engine.layers.mixtures.products import SeparateExperts, grouped_experts
from app.engine.layers.packer import Packer
from app.engine.layers.prepare import convert_layers
from app.engine.loading.serving_path import load_checked
from app.engine.startup import build_engine
from tests.engine.architectures.tiny_configs import tiny_config
from tests.engine.layers.compiled.conftest import needs_product
from tests.engine.own_cache.models import save
from tests.engine.tiny import greedy, new_model, run

CPU = torch.device("cpu")
# GPT-OSS transposes its weights and has biases; the experts of Nemotron-H have no gate.
USUAL = (
    "olmoe",
    "qwen3_moe",
    "mixtral",
    "granitemoe",
    "gpt_oss",
    "lfm2_moe",
    "nemotron_h",
)
FORMS: dict[Quantization, Callable[[Tensor], GroupedWeight]] = {"int8": in_eight_bits, "int4": in_four_bits}


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def mixture(architecture: str) -> PreTrainedModel:
    config = tiny_config(architecture, 300)
    if architecture == "gemma4_text":  # its smaller models are dense
        config.enable_moe_block, config.num_experts, config.moe_intermediate_size = True, 4, 16
    model = new_model(config)
    model.to(CPU)  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    return model


def experts_of(model: nn.Module) -> Any:  # each architecture has its own class
    return next(module for module in model.modules() if hasattr(module, "is_transposed"))


def with_values_of_groups(experts: Any, in_groups: Callable[[Tensor], GroupedWeight]) -> Any:
    """Returns the module with each weight replaced by the value that its group of integers stands for."""
    rounded = copy.deepcopy(experts)
    for name, weights in rounded.named_parameters(recurse=False):
        if weights.dim() == 3:
            for index, weight in enumerate(weights):
                matrix = weight.t() if rounded.is_transposed else weight
                values = in_groups(matrix).values()[:, : matrix.shape[1]]
                getattr(rounded, name)[index] = values.t() if rounded.is_transposed else values
    return rounded


@needs_product
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("architecture", USUAL)
def test_quantised_experts_compute_what_their_own_code_does(architecture: str, form: Quantization) -> None:
    model = mixture(architecture)
    experts = experts_of(model)
    reference = with_values_of_groups(experts, FORMS[form])
    width = experts.down_proj.shape[2 if experts.is_transposed else 1]
    pack_experts(model, Packer.choose(CPU, torch.float32, torch.float32, form))
    quantised = next(module for module in model.modules() if isinstance(module, QuantisedExperts))
    for tokens in (1, 7, 40):
        rows = torch.randn(tokens, width)
        chosen = torch.rand(tokens, experts.num_experts).topk(2)
        given = rows, chosen.indices, chosen.values
        assert error(quantised(*given), reference(*given)) < 1e-3


@needs_product
@pytest.mark.parametrize("form", FORMS)
def test_token_with_an_expert_beyond_the_last_has_one_less(form: Quantization) -> None:
    model = mixture("olmoe")
    count = experts_of(model).num_experts
    pack_experts(model, Packer.choose(CPU, torch.float32, torch.float32, form))
    quantised = next(module for module in model.modules() if isinstance(module, QuantisedExperts))
    rows = torch.randn(2, model.config.hidden_size)
    both = quantised(rows, torch.tensor([[0, 1], [2, 1]]), torch.ones(2, 2))
    some = quantised(rows, torch.tensor([[count, 1], [2, 1]]), torch.ones(2, 2))
    none = quantised(rows, torch.full((2, 2), count), torch.ones(2, 2))
    assert some[1].equal(both[1]) and not some[0].equal(both[0])
    assert none.equal(torch.zeros_like(rows))


@needs_product
@pytest.mark.parametrize("bits", [4, 8])
def test_each_row_has_the_output_of_its_experts_layer_to_the_bit(bits: int) -> None:
    torch.manual_seed(0)
    weights, bias = torch.randn(5, 50, 96), torch.randn(5, 50)
    in_groups = in_four_bits if bits == 4 else in_eight_bits
    experts = grouped_experts(weights, in_groups, bias, torch.float32)
    product = grouped_product()
    assert isinstance(experts, CompiledExperts) and product is not None
    layers = [
        CompiledLinear(in_groups(weight), own, torch.float32, product)
        for weight, own in zip(weights, bias, strict=True)
    ]
    for counts in ([1, 0, 2, 9, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [300, 1, 0, 0, 7]):
        rows = torch.randn(sum(counts), 96)
        expected = torch.cat(
            [layer(part) for layer, part in zip(layers, rows.split_with_sizes(counts), strict=True)]
        )
        assert experts(rows, torch.tensor(counts)).equal(expected)


@needs_product
@pytest.mark.parametrize("counts", [[1, 1], [1, 0, 0], [2, 1, 0]])
def test_experts_refuse_counts_that_are_not_those_of_the_rows(counts: list[int]) -> None:
    experts = grouped_experts(torch.randn(3, 16, 32), in_four_bits, None, torch.float32)
    with pytest.raises(ValueError, match="experts"):
        experts(torch.randn(2, 32), torch.tensor(counts))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_experts_in_groups_already_keep_their_integers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    integers = torch.randint(0, 16, (4, 48, 64), dtype=torch.uint8)
    stored = [GroupedWeight(4, each, torch.rand(48, 2).half().float() + 0.1) for each in integers]
    experts = grouped_experts(stored, lambda weight: weight, None, dtype)
    rows = torch.randn(6, 64).to(dtype)
    found = experts(rows, torch.tensor([1, 0, 3, 2]))
    owners = [0, 2, 2, 2, 3, 3]
    expected = torch.stack(
        [row.float() @ stored[owner].values().t() for row, owner in zip(rows, owners, strict=True)]
    )
    assert found.dtype == dtype
    assert error(found.float(), expected) < 0.01


def test_separate_layers_compute_their_experts_rows() -> None:
    layers = [nn.Linear(8, 3) for _ in range(4)]
    rows = torch.randn(5, 8)
    found = SeparateExperts(layers)(rows, torch.tensor([0, 2, 0, 3]))
    assert found.equal(torch.cat([layers[1](rows[:2]), layers[3](rows[2:])]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("architecture", "share"), [("olmoe", ""), ("gpt_oss", ""), ("jetmoe", "(%)"), ("llama4_text", "(%)")]
)
def test_report_says_how_many_of_the_weights_have_few_bits(
    architecture: str, share: str, form: Quantization
) -> None:
    shares: list[float] = []
    name = convert_layers(mixture(architecture), torch.float32, form, shares.append, fuses=False).name
    assert name.startswith(form + (" (" if share else ""))
    assert name.endswith("% of the weights)" if share else form)
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.mark.parametrize(
    "architecture",
    ["afmoe", "dbrx", "gemma4_text", "jetmoe", "longcat_flash", "nemotron_h", "olmoe", "qwen3_next", "zaya"],
)
def test_routers_keep_their_bits(architecture: str) -> None:
    model = mixture(architecture)
    weights = model.state_dict()
    routers = [
        name for name in weights if re.search(r"\.(router|gate|shared_expert_gate)\.(.*\.)?weight$", name)
    ]
    stored = {name: weights[name].clone() for name in routers}
    convert_layers(model, torch.float32, "int4", fuses=False)
    kept = model.state_dict()
    assert stored and all(name in kept and kept[name].equal(weight) for name, weight in stored.items())


def test_experts_of_unquantised_models_stay() -> None:
    model = mixture("olmoe")
    convert_layers(model, torch.float32, "none", fuses=False)
    assert experts_of(model).gate_up_proj.dtype == torch.float32
    assert not any(isinstance(module, QuantisedExperts) for module in model.modules())


@pytest.mark.parametrize("form", FORMS)
def test_engine_serves_quantised_experts(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, form: Quantization
) -> None:
    save("olmoe", tokenizer, tmp_path)
    spec = WorkerSpec(str(tmp_path), "olmoe", dtype="float32", quantization=form)
    assert load_checked(spec, lambda *stage: None).path.weights == form
    built = build_engine(spec, lambda event: None)
    alone = run(built.engine, greedy("a", "the cat")).texts["a"]
    together = run(built.engine, greedy("b", "the cat "), greedy("c", "the cat"), greedy("d", "on the mat"))
    assert len(alone) > 0 and together.texts["c"] == alone
