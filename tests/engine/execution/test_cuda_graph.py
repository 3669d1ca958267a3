"""Decode attention gives the logits of variable-length attention, and a pass is prepared once per shape."""

import copy
import gc
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.engine.execution.cuda_graph import CudaGraphs
from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.pool import KVPool
from app.engine.kv.slot import KVAllocator, PerSlotAllocator
from app.engine.loading.self_check import check_packed_path
from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.engine.tiny import DEVICE, TinyModel, greedy, packed_decoder, run

IDS = [(7 * step) % 290 for step in range(120)]

Steps = list[list[tuple[int, tuple[int, ...]]]]  # per step and sequence: ids to compute, and draft ids


def forward_all(runner: ModelRunner, allocator: KVAllocator, steps: Steps) -> list[Tensor]:
    """The logits of each step."""
    lengths = [sum(step[index][0] for step in steps) for index in range(len(steps[0]))]
    sequences = [
        TokenSequence(str(index), IDS[index : index + length], slot=allocator.new(length + 8))
        for index, length in enumerate(lengths)
    ]
    logits = []
    for step in steps:
        chunks = [Chunk(sequence, *work) for sequence, work in zip(sequences, step, strict=True) if work[0]]
        logits.append(runner.forward(chunks).clone())
        for chunk in chunks:
            chunk.sequence.advance(chunk.count)
    return logits


def test_decode_attention_gives_the_logits_of_varlen_attention(tiny: TinyModel) -> None:
    steps: Steps = [
        [(5, ()), (9, ()), (1, ())],
        [(1, ()), (12, ()), (0, ())],
        [(1, (3, 4)), (1, ()), (1, (5,))],
    ]
    pool = KVPool(128, first=16)
    for varlen, decode in zip(
        forward_all(ModelRunner(tiny.packed), PerSlotAllocator(), steps),
        forward_all(ModelRunner(tiny.packed, pool=pool), pool, steps),
        strict=True,
    ):
        torch.testing.assert_close(decode, varlen, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "steps",
    [
        [[(5, ()), (9, ()), (1, ())], [(1, ()), (1, (3, 4)), (90, ())], [(1, ()), (1, ()), (1, ())]],
        [[(2, ())] * 70, [(1, (5,))] * 70, [(1, ())] * 70],
    ],
    ids=["decodes beside a long prefill", "more decodes than a graph has rows"],
)
def test_a_step_too_large_for_one_graph_is_split(llama: TinyModel, steps: Steps) -> None:
    pool = KVPool(1024, first=1024)
    runner = ModelRunner(llama.packed, pool=pool)
    for varlen, split in zip(
        forward_all(ModelRunner(llama.packed), PerSlotAllocator(), steps),
        forward_all(runner, pool, steps),
        strict=True,
    ):
        torch.testing.assert_close(split, varlen, rtol=1e-4, atol=1e-4)
    assert runner.graphs is not None and len(runner.graphs.shapes) >= 2


def test_a_model_that_cannot_be_captured_takes_one_pass_for_a_step(llama: TinyModel) -> None:
    pool, passes = KVPool(1024, first=1024), 0
    runner = ModelRunner(llama.packed, pool=pool)
    assert runner.graphs is not None
    runner.graphs.are_possible = False

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = llama.packed.get_input_embeddings().register_forward_hook(count)
    try:
        forward_all(runner, pool, [[(2, ())] * 70, [(1, ())] * 70])
    finally:
        hook.remove()
    assert passes == 2


def test_nan_left_in_the_pool_does_not_reach_other_sequences(llama: TinyModel) -> None:
    pool = KVPool(128, first=128)
    spoilt = pool.new(64)
    for layer in range(3):
        spoilt.write(layer, 0, torch.full((2, 1, 2, 64, 8), torch.nan, device=DEVICE))
    pool.drop(spoilt)
    steps: Steps = [[(3, ())], [(1, ())]]
    assert not forward_all(ModelRunner(llama.packed, pool=pool), pool, steps)[1].isnan().any()


def test_a_pass_is_prepared_once_per_shape_and_again_when_the_pool_moves() -> None:
    computed: list[tuple[int, int]] = []

    def compute(inputs: Tensor, length: int) -> Tensor:
        computed.append((inputs.shape[1], length))
        return inputs.t()

    pool = KVPool(64, first=8)
    graphs = CudaGraphs(compute, pool, torch.device("cpu"))
    logits = graphs.logits([5, 6, 7], [2, 2, 40], [0, 1, 300])
    assert logits is not None
    assert logits.tolist() == [[5, 2, 0], [6, 2, 1], [7, 40, 300]]
    graphs.logits([5], [2], [255])
    assert computed == graphs.shapes == [(4, 512), (1, 256)]
    pool.layer(0, torch.zeros(2, 1, 1, 1, 1))
    pool.new(20)
    graphs.logits([5], [2], [0])
    assert graphs.shapes == [(1, 256)]


def test_passes_that_are_too_large_have_no_graph() -> None:
    pool = KVPool(8)
    pool.layer(0, torch.zeros(2, 1, 8, 1, 64))  # 4 KiB for a position
    graphs = CudaGraphs(lambda inputs, length: inputs.t(), pool, torch.device("cpu"))
    assert graphs.logits([0] * 65, [2] * 65, [0] * 65) is None
    assert graphs.logits([0] * 64, [2] * 64, [5000] * 64) is None
    assert graphs.logits([0], [2], [5000]) is not None


def test_an_engine_with_a_pool_decodes_in_few_shapes(tiny: TinyModel) -> None:
    engine = replace(tiny, uses_pool=True).engine()
    run(engine, greedy("a", "the cat"), greedy("b", "on the mat"))
    graphs = packed_decoder(engine).runner.graphs
    assert graphs is not None
    rows = {rows for rows, _ in graphs.shapes}
    assert rows <= {1, 2, 4, 8, 16} and {1, 2} & rows


@pytest.mark.parametrize("pool", [KVPool(64), None])
def test_the_check_reports_whether_decode_attention_is_right(llama: TinyModel, pool: KVPool | None) -> None:
    model = copy.deepcopy(llama.reference)
    assert check_packed_path(model, pool=pool).supports_cuda_graphs == (pool is not None)


def test_recovered_runner_prepares_passes_again(llama: TinyModel) -> None:
    engine = replace(llama, uses_pool=True).engine()
    first = run(engine, greedy("a", "the cat")).texts["a"]
    graphs = packed_decoder(engine).runner.graphs
    assert graphs is not None
    engine.decoder.recover()
    assert not graphs.shapes
    assert run(engine, greedy("a", "the cat")).texts["a"] == first


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs TEST_DEVICE=cuda")
def test_engines_leave_no_memory_on_the_card(llama: TinyModel) -> None:
    used = []
    for _ in range(3):
        engine = replace(llama, uses_pool=True).engine()
        run(engine, greedy("a", "the cat"))
        engine.decoder.recover()
        del engine
        gc.collect()
        used.append(torch.cuda.memory_allocated())
    assert used[2] <= used[0]


def test_the_check_goes_on_without_cuda_graphs_if_they_fail(llama: TinyModel) -> None:
    class BrokenPool(KVPool):
        def layer(self, layer: int, pairs: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    model = copy.deepcopy(llama.reference)
    assert not check_packed_path(model, pool=BrokenPool(64)).supports_cuda_graphs


def test_draft_tokens_are_verified_rightly_in_a_pool(llama: TinyModel) -> None:
    """A prompt that repeats itself, so that prompt look-up finds draft tokens."""
    prompt = "the cat sat on the mat, " * 4
    engine = replace(llama, uses_pool=True).engine()
    assert run(engine, greedy("a", prompt, 40)).texts["a"] == llama.generate(prompt, 40)
