"""The row pass computes what the direct pass computes, and writes the same keys and values."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.execution.attention.varlen import PackedSequence, VarlenAttention
from app.engine.execution.direct_pass import DirectPass
from app.engine.execution.rows.row_pass import RowPass
from app.engine.kv.slot import PerSlotAllocator, Slot
from app.engine.layers.prepare import prepare
from app.engine.layers.schemes import relative_error
from tests.engine.layers.compiled.conftest import needs_product
from tests.engine.tiny import DEVICE, TinyModel

pytestmark = [
    needs_product,
    pytest.mark.skipif(DEVICE.type != "cpu", reason="the row pass is for CPUs"),
]
LENGTHS = (3, 30, 90)  # tokens that each slot holds before the rows


def direct_pass(tiny: TinyModel) -> DirectPass:
    direct = DirectPass.of(tiny.packed)
    assert direct is not None
    return direct


def row_pass(direct: DirectPass) -> RowPass:
    rows = RowPass.of(direct)
    assert rows is not None
    return rows


def packed(slots: Sequence[Slot], starts: Sequence[int], rows: Sequence[int]) -> list[PackedSequence]:
    sequences, begin = [], 0
    for slot, start, length in zip(slots, starts, rows, strict=True):
        sequences.append(PackedSequence(slot, begin, begin + length, start))
        begin += length
    return sequences


def positions_of(sequences: Sequence[PackedSequence]) -> list[int]:
    return [position for item in sequences for position in range(item.start, item.stop)]


def filled_slots(direct: DirectPass) -> list[Slot]:
    """Returns a slot for each of LENGTHS, with its keys and values."""
    slots = [Slot(length + 8) for length in LENGTHS]
    sequences = packed(slots, [0] * len(slots), LENGTHS)
    positions = positions_of(sequences)
    ids = [7 * position % 290 for position in positions]
    direct.logits(ids, positions, [0], VarlenAttention(sequences))
    return slots


def copies(slots: Sequence[Slot]) -> list[Slot]:
    return [PerSlotAllocator().copy(slot, slot.capacity, slot.capacity) for slot in slots]


def stored(slot: Slot, layer: int, length: int) -> Tensor:
    return slot.layers[layer].narrow(3, 0, length)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt2"])
@pytest.mark.parametrize("rows", [(1, 1, 1), (1, 4, 2)], ids=["decodes", "with draft ids"])
@torch.inference_mode()
def test_row_pass_has_the_logits_of_the_direct_pass(
    tiny_model: Callable[[str], TinyModel], name: str, rows: tuple[int, ...]
) -> None:
    direct = direct_pass(tiny_model(name))
    slots = filled_slots(direct)
    others = copies(slots)
    sequences = packed(slots, LENGTHS, rows)
    positions = positions_of(sequences)
    ids, wanted = list(range(5, 5 + len(positions))), [0, len(positions) - 1]
    expected = direct.logits(ids, positions, wanted, VarlenAttention(packed(others, LENGTHS, rows)))
    assert row_pass(direct).can_compute(sequences, 0)
    logits = row_pass(direct).logits(ids, positions, sequences, wanted, 0)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for slot, other, sequence in zip(slots, others, sequences, strict=True):
        for layer in slot.layers:
            ours, theirs = stored(slot, layer, sequence.stop), stored(other, layer, sequence.stop)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rows_do_not_depend_on_their_neighbours_or_the_padding(
    tiny_model: Callable[[str], TinyModel],
) -> None:
    direct = direct_pass(tiny_model("llama"))
    rows, slots = row_pass(direct), filled_slots(direct)
    alone = [
        rows.logits([9], [length], packed([slot], [length], [1]), [0], 0)
        for slot, length in zip(slots, LENGTHS, strict=True)
    ]
    sequences = packed(slots, LENGTHS, (1, 1, 1))
    together = rows.logits([9, 9, 9, 0], [*LENGTHS, 0], sequences, [0, 1, 2], 0)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_first_tokens_and_long_chunks_are_left_to_torch(tiny_model: Callable[[str], TinyModel]) -> None:
    direct = direct_pass(tiny_model("llama"))
    rows, slots = row_pass(direct), filled_slots(direct)
    assert rows.can_compute(packed(slots, LENGTHS, (1, 1, 1)), 0)
    assert not rows.can_compute(packed(slots, (0, 3, 3), (1, 1, 1)), 0)
    assert not rows.can_compute(packed(slots, (3, 3, 3), (1, 30, 1)), 0)
    assert not rows.can_compute(packed(slots[:1], (3,), (1,)), first_layer=1)


@torch.inference_mode()
def test_slot_that_grew_in_some_layers_only_is_left_to_torch(tiny_model: Callable[[str], TinyModel]) -> None:
    direct = direct_pass(tiny_model("llama"))
    rows, (slot, *_) = row_pass(direct), filled_slots(direct)
    grown = copies([slot])[0]
    PerSlotAllocator().resize(grown, LENGTHS[0], slot.capacity + 64)
    slot.layers[0] = grown.layers[0]  # as when the memory for the next layer is lacking
    assert not rows.can_compute(packed([slot], LENGTHS[:1], (1,)), 0)


@torch.inference_mode()
def test_rows_beyond_the_slot_are_never_written(tiny_model: Callable[[str], TinyModel]) -> None:
    direct = direct_pass(tiny_model("llama"))
    slots = filled_slots(direct)
    sequences = packed(slots[:1], [slots[0].capacity], [1])
    with pytest.raises(ValueError, match=str(slots[0].capacity)):
        row_pass(direct).logits([9], [slots[0].capacity], sequences, [0], 0)


@torch.inference_mode()
def test_row_pass_leaves_mixed_and_short_numbers_alone(tiny_model: Callable[[str], TinyModel]) -> None:
    direct = direct_pass(tiny_model("llama"))
    assert RowPass.of(direct) is not None
    assert RowPass.of(replace(direct, norm=copy.deepcopy(direct.norm).half())) is None


def in_bfloat16(model: PreTrainedModel) -> DirectPass:
    short = copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type]  # transformers wraps `to`
    prepare(short, torch.bfloat16)
    direct = DirectPass.of(short)
    assert direct is not None
    return direct


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gpt2"])
@torch.inference_mode()
def test_row_pass_in_bfloat16_is_about_as_exact_as_the_direct_pass(
    tiny_model: Callable[[str], TinyModel], name: str
) -> None:
    exact, short = direct_pass(tiny_model(name)), in_bfloat16(tiny_model(name).reference)
    ids, wanted = [5, 6, 7], [0, 1, 2]

    def sequences(direct: DirectPass) -> list[PackedSequence]:
        return packed(filled_slots(direct), LENGTHS, (1, 1, 1))

    expected = exact.logits(ids, [*LENGTHS], wanted, VarlenAttention(sequences(exact)))
    plain = short.logits(ids, [*LENGTHS], wanted, VarlenAttention(sequences(short)))
    found = row_pass(short).logits(ids, [*LENGTHS], sequences(short), wanted, 0)
    assert found.dtype == torch.bfloat16
    assert relative_error(found, expected) < 2 * relative_error(plain, expected)
