"""The row pass computes the forms of its architectures as the direct pass does, and leaves others alone."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from app.core.literals import Quantization
from app.engine.execution.attention.varlen import PackedSequence, VarlenAttention
from app.engine.execution.direct_pass import DirectPass
from app.engine.execution.rows.row_pass import RowPass
from app.engine.kv.slot import PerSlotAllocator, Slot
from app.engine.layers.prepare import prepare
from app.engine.layers.schemes import relative_error
from tests.engine.layers.compiled.conftest import needs_product
from tests.engine.tiny import DEVICE, new_model

pytestmark = [
    needs_product,
    pytest.mark.skipif(DEVICE.type != "cpu", reason="the row pass is for CPUs"),
]
LENGTHS = (
    2,
    290,
    1100,
)  # tokens in each slot: fewer than a vector, more than a block of keys, and a long rope
SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 84,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
GPT2_SHAPE: dict[str, Any] = {
    **{"vocab_size": 96, "n_embd": 60, "n_layer": 2, "n_head": 4, "n_positions": 2048},
    "initializer_range": 0.2,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def rope(kind: str, **options: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 128, **options}


FORMS: dict[str, PreTrainedConfig] = {
    "one key head": LlamaConfig(**SHAPE | {"num_key_value_heads": 1}),
    "biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "odd sizes": LlamaConfig(**SHAPE | {"hidden_size": 52, "intermediate_size": 45}, head_dim=22),
    "wide heads": LlamaConfig(**SHAPE, head_dim=256),
    "large eps": Qwen3Config(**SHAPE, rms_norm_eps=0.1),
    "qwen2": Qwen2Config(**SHAPE),
    "some windows": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=270, max_window_layers=1),
    "window": MistralConfig(**SHAPE, sliding_window=280),
    "no window": MistralConfig(**SHAPE, sliding_window=None),
    "linear": LlamaConfig(**SHAPE, rope_parameters=rope("linear", factor=4.0)),
    "llama3": LlamaConfig(**SHAPE, rope_parameters=rope("llama3", **LLAMA3)),
    "yarn": LlamaConfig(**SHAPE, rope_parameters=rope("yarn", factor=4.0)),
    "heads of 15": GPT2Config(**GPT2_SHAPE, layer_norm_epsilon=0.1),
    "scales by layer": GPT2Config(**GPT2_SHAPE, scale_attn_by_inverse_layer_idx=True),
    "no scale": GPT2Config(**GPT2_SHAPE, scale_attn_weights=False),
}


def direct_pass(config: PreTrainedConfig, quantization: Quantization = "none") -> DirectPass:
    model = new_model(config)
    for name, values in model.named_parameters():
        if "norm" in name or ".ln_" in name or name.endswith("bias"):  # else all are 1 or 0
            nn.init.uniform_(values, 0.5, 1.5)
    prepare(model, torch.float32, quantization)
    direct = DirectPass.of(model)
    assert direct is not None
    return direct


def sequences_of(slots: list[Slot], rows: int) -> list[PackedSequence]:
    places = zip(slots, LENGTHS, strict=True)
    return [PackedSequence(slot, i * rows, (i + 1) * rows, start) for i, (slot, start) in enumerate(places)]


def computed(direct: DirectPass, rows: int) -> tuple[Tensor, Tensor]:
    """Returns the logits of each slot's next rows by the row pass, and by the direct pass."""
    slots = [Slot(length + rows) for length in LENGTHS]
    for slot, length in zip(slots, LENGTHS, strict=True):
        ids = [31 * position % 96 for position in range(length)]
        whole = VarlenAttention([PackedSequence(slot, 0, length, 0)])
        direct.logits(ids, list(range(length)), [0], whole)
    others = [PerSlotAllocator().copy(slot, slot.capacity, slot.capacity) for slot in slots]
    positions = [length + row for length in LENGTHS for row in range(rows)]
    ids, wanted = [position % 96 for position in positions], list(range(len(positions)))
    row_pass, sequences = RowPass.of(direct), sequences_of(slots, rows)
    assert row_pass is not None and row_pass.can_compute(sequences, 0)
    found = row_pass.logits(ids, positions, sequences, wanted, 0)
    return found, direct.logits(ids, positions, wanted, VarlenAttention(sequences_of(others, rows)))


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_row_pass_computes_each_form_of_its_architectures(form: str) -> None:
    found, expected = computed(direct_pass(FORMS[form]), rows=2)
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@torch.inference_mode()
def test_row_pass_takes_quantised_layers(quantization: Quantization) -> None:
    found, expected = computed(direct_pass(LlamaConfig(**SHAPE), quantization), rows=1)
    assert relative_error(found, expected) < 0.01  # rows are rounded, so that small differences grow


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SHAPE, head_dim=260),
        LlamaConfig(**SHAPE, rope_parameters=rope("dynamic", factor=4.0)),
    ],
    ids=["wider heads", "rope of the length"],
)
def test_row_pass_leaves_other_forms_alone(config: PreTrainedConfig) -> None:
    assert RowPass.of(direct_pass(config)) is None


def test_row_pass_leaves_other_norms_alone() -> None:
    class OtherNorm(nn.LayerNorm):
        """It may compute something else."""

    direct = direct_pass(GPT2Config(**GPT2_SHAPE))
    assert RowPass.of(direct) is not None
    for norm in (OtherNorm(60), nn.LayerNorm(60, bias=False), nn.LayerNorm(60, elementwise_affine=False)):
        assert RowPass.of(replace(direct, norm=norm)) is None


def test_row_pass_leaves_a_rope_of_other_heads_alone() -> None:
    direct, other = direct_pass(LlamaConfig(**SHAPE)), direct_pass(LlamaConfig(**SHAPE, head_dim=8))
    assert RowPass.of(replace(direct, positions=other.positions)) is None


def test_row_pass_leaves_another_attention_alone() -> None:
    for change in ({"softcap": 30.0}, {"sinks": torch.zeros(4)}):
        direct = direct_pass(LlamaConfig(**SHAPE))
        layer = direct.modules[-1]
        layer.attention = replace(layer.attention, **change)
        assert RowPass.of(direct) is None


def widened(product: Any) -> Any:
    return lambda rows: product(rows).double()


@pytest.mark.parametrize("name", ["qkv", "o_proj", "gate_up", "down_proj"])
@torch.inference_mode()
def test_products_may_give_another_dtype(name: str) -> None:
    direct = direct_pass(LlamaConfig(**SHAPE))
    for layer in direct.modules:
        product = getattr(layer, name)
        product.forward = widened(product.forward)
    found, expected = computed(direct, rows=1)
    assert relative_error(found, expected) < 1e-4


@torch.inference_mode()
def test_product_of_another_width_is_never_read() -> None:
    direct = direct_pass(LlamaConfig(**SHAPE))
    product: Any = direct.modules[-1].qkv
    computation = product.forward
    slots = [Slot(length + 1) for length in LENGTHS]
    for slot, length in zip(slots, LENGTHS, strict=True):
        whole = VarlenAttention([PackedSequence(slot, 0, length, 0)])
        direct.logits([0] * length, list(range(length)), [0], whole)
    product.forward = lambda rows: computation(rows).narrow(-1, 0, 64)
    rows = RowPass.of(direct)
    assert rows is not None
    with pytest.raises(ValueError, match="64"):
        rows.logits([1, 2, 3], list(LENGTHS), sequences_of(slots, 1), [0], 0)


@torch.inference_mode()
def test_engines_of_one_process_may_compute_at_the_same_time() -> None:
    passes = [direct_pass(LlamaConfig(**SHAPE, head_dim=128)) for _ in range(4)]

    @torch.inference_mode()
    def logits(direct: DirectPass) -> Tensor:
        return computed(direct, rows=4)[0]

    expected = logits(passes[0])
    with ThreadPoolExecutor(len(passes)) as engines:
        assert all(torch.equal(found, expected) for found in engines.map(logits, passes))
