"""Passes over rows give what passes over spans give, in every mixture; and are made once for a shape."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.engine.core import EngineCore
from app.engine.execution.cuda_graph import CudaGraphs
from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.pool import KVPool
from app.engine.kv.slot import KVAllocator, PerSlotAllocator
from app.engine.loading.self_check import check_packed_path
from app.engine.scheduler import Chunk, TokenSequence
from tests.engine.tiny import TinyModel, greedy, run

IDS = [(7 * step) % 290 for step in range(40)]


def advance(
    runner: ModelRunner, store: KVAllocator, steps: list[list[tuple[int, tuple[int, ...]]]]
) -> list[Tensor]:
    """Logits of each step; every sequence advances by so many of its ids, and guesses so many more."""
    lengths = [sum(step[index][0] for step in steps) for index in range(len(steps[0]))]
    sequences = [
        TokenSequence(str(index), IDS[index : index + length], slot=store.new(length + 8))
        for index, length in enumerate(lengths)
    ]
    found = []
    for step in steps:
        chunks = [Chunk(each, *work) for each, work in zip(sequences, step, strict=True) if work[0]]
        found.append(runner.forward(chunks).clone())
        for chunk in chunks:
            chunk.sequence.computed += chunk.count
    return found


def test_rows_give_the_logits_of_spans(tiny: TinyModel) -> None:
    steps = [
        [(5, ()), (9, ()), (1, ())],
        [(1, ()), (12, ()), (0, ())],
        [(1, (3, 4)), (1, ()), (1, (5,))],
    ]
    arena = KVPool(128, first=16)
    for spans, rows in zip(
        advance(ModelRunner(tiny.packed), PerSlotAllocator(), steps),
        advance(ModelRunner(tiny.packed, arena=arena), arena, steps),
        strict=True,
    ):
        torch.testing.assert_close(rows, spans, rtol=1e-4, atol=1e-4)


def test_what_is_no_number_spoils_only_its_own_sequence(llama: TinyModel) -> None:
    arena = KVPool(128, first=128)
    spoilt = arena.new(64)
    for layer in range(3):
        spoilt.write(layer, 0, torch.full((2, 1, 2, 64, 8), torch.nan))
    arena.drop(spoilt)
    steps = [[(3, ())], [(1, ())]]
    assert not advance(ModelRunner(llama.packed, arena=arena), arena, steps)[1].isnan().any()


def test_a_pass_is_made_once_for_its_shape_and_anew_when_the_arena_moves() -> None:
    asked: list[tuple[int, int]] = []

    def compute(inputs: Tensor, length: int) -> Tensor:
        asked.append((inputs.shape[1], length))
        return inputs.t()

    arena = KVPool(64, first=8)
    passes = CudaGraphs(compute, arena, torch.device("cpu"))
    assert passes.logits([5, 6, 7], [2, 2, 40], [0, 1, 300]).tolist() == [[5, 2, 0], [6, 2, 1], [7, 40, 300]]
    passes.logits([5], [2], [255])
    assert asked == [(4, 512), (1, 256)]
    assert len(passes._passes) == 2
    arena.layer(0, torch.zeros(2, 1, 1, 1, 1))
    arena.new(20)
    passes.logits([5], [2], [0])
    assert len(passes._passes) == 1


def test_passes_that_are_too_large_go_another_way() -> None:
    arena = KVPool(8)
    arena.layer(0, torch.zeros(2, 1, 8, 1, 64))  # 4 KiB for a position
    passes = CudaGraphs(lambda inputs, length: inputs.t(), arena, torch.device("cpu"))
    assert passes.logits([0] * 65, [2] * 65, [0] * 65) is None
    assert passes.logits([0] * 64, [2] * 64, [5000] * 64) is None
    assert passes.logits([0], [2], [5000]) is not None


def test_an_engine_in_an_arena_computes_decodes_by_rows(llama: TinyModel) -> None:
    engine = replace(llama, has_arena=True).engine()
    run(engine, greedy("a", "the cat"), greedy("b", "on the mat"))
    shapes = {rows for rows, _ in engine._runner._passes._passes}
    assert shapes <= {1, 2, 4, 8, 16} and {1, 2} & shapes


@pytest.mark.parametrize("arena", [KVPool(64), None])
def test_the_check_tells_whether_rows_are_computed_rightly(llama: TinyModel, arena: KVPool | None) -> None:
    model = copy.deepcopy(llama.reference)
    assert check_packed_path(model, arena=arena).supports_cuda_graphs == (arena is not None)


def test_what_is_forgotten_is_made_again(llama: TinyModel) -> None:
    engine = replace(llama, has_arena=True).engine()
    first = run(engine, greedy("a", "the cat")).texts["a"]
    engine._runner.recover()
    assert not engine._runner._passes._passes
    assert run(engine, greedy("a", "the cat")).texts["a"] == first


def test_the_check_goes_on_without_rows_where_they_fail(llama: TinyModel) -> None:
    class Broken(KVPool):
        def layer(self, layer: int, pairs: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    assert not check_packed_path(copy.deepcopy(llama.reference), arena=Broken(64)).supports_cuda_graphs


def test_guesses_are_right_in_an_arena(llama: TinyModel) -> None:
    """A prompt that repeats itself, so that its own text is guessed from."""
    ask = greedy("a", "the cat sat on the mat, " * 4, 40)
    engine: EngineCore = replace(llama, has_arena=True).engine()
    assert run(engine, ask).texts["a"] == llama.generate(ask.prompt or "", 40)
