"""Owns passes over few rows, of fixed shapes: on a GPU each shape is recorded once and then repeated.

A recorded pass costs one launch in place of one for each operation, which is what a small batch waits for
there. Elsewhere the same pass is computed anew each time; tests do so.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from app.engine.arena import SCRATCH, Arena
from app.engine.transfer import on_device

_log = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_SHORTEST = 256  # positions; the lengths are this, doubled and doubled
_MOST_SEEN = 2**18  # positions that all rows look at, for which there must be memory
_REHEARSALS = 2  # what an operation sets up on first use cannot be recorded

Compute = Callable[[Tensor, int], Tensor]  # ids, places and positions `[3, rows]`, and the length, to logits
Pass = Callable[[], Tensor]


class RowPasses:
    """`compute` makes logits `[rows, vocabulary]` in the arena of all sequences, and changes nothing else."""

    def __init__(self, compute: Compute, arena: Arena, device: torch.device) -> None:
        self._compute = compute
        self.arena = arena
        self._device = device
        self._inputs: dict[int, Tensor] = {}
        self._passes: dict[tuple[int, int], Pass | None] = {}
        self._moves = arena.moves
        self._pool: Any = None  # memory that all recorded passes share, as one runs at a time

    def logits(self, ids: Sequence[int], places: Sequence[int], positions: Sequence[int]) -> Tensor | None:
        """Of each row, until the next call; None where such a pass is not for here: it is too large, or could
        not be recorded."""
        rows = next((size for size in _ROWS if size >= len(ids)), None)
        length = _length(max(positions) + 1)
        if rows is None or rows * length > _MOST_SEEN:
            return None
        filling = rows - len(ids)
        values = [[*ids, *[0] * filling], [*places, *[SCRATCH] * filling], [*positions, *[0] * filling]]
        made = self._pass(self._filled(rows, values), length)
        return None if made is None else made()[: len(ids)]

    def _filled(self, rows: int, values: list[list[int]]) -> Tensor:
        """The one tensor for passes of so many rows, with these values."""
        if rows not in self._inputs:
            self._inputs[rows] = torch.zeros((3, rows), dtype=torch.long, device=self._device)
        self._inputs[rows].copy_(on_device(values, self._device))
        return self._inputs[rows]

    def _pass(self, inputs: Tensor, length: int) -> Pass | None:
        if self._moves != self.arena.moves:  # what is recorded reads where the arena was
            self._passes.clear()
            self._moves = self.arena.moves
        key = (inputs.shape[1], length)
        if key not in self._passes:
            self._passes[key] = self._made(inputs, length)
        return self._passes[key]

    def _made(self, inputs: Tensor, length: int) -> Pass | None:
        def compute() -> Tensor:
            return self._compute(inputs, length)

        if self._device.type != "cuda":
            return compute
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            return _recorded(compute, self._pool)
        except RuntimeError:  # torch's own is one
            _log.warning(
                "passes of %d rows over %d tokens are not recorded", inputs.shape[1], length, exc_info=True
            )
            return None


def _length(tokens: int) -> int:
    length = _SHORTEST
    while length < tokens:
        length *= 2
    return length


def _recorded(compute: Pass, pool: Any) -> Pass:  # a handle of torch's
    """Raises RuntimeError for a pass that waits for its own results, as that of a mixture of experts may,
    and for one that is not the same when it is repeated."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_REHEARSALS):
            compute()
        with _no_waiting():
            expected = compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = compute()

    def repeat() -> Tensor:
        graph.replay()
        return output

    if not torch.allclose(repeat(), expected, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise RuntimeError("a recorded pass gives other logits than the one that was recorded")
    return repeat


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Whatever would make this process wait for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
