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

from app.engine.device import on_device
from app.engine.kv.pool import SCRATCH, KVPool
from app.engine.loading.relative_error import relative_error

_log = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_SHORTEST = 256  # positions; the lengths are this, doubled and doubled
_MOST_SEEN_BYTES = 2**29  # of keys and values that all rows of a pass look at in a layer: so much is copied
_REHEARSALS = 2  # what an operation sets up on first use cannot be recorded
_TOLERANCE = 0.02  # of the logits' spread: what other sums of the same numbers may do

Compute = Callable[[Tensor, int], Tensor]  # ids, places and positions `[3, rows]`, and the length, to logits
Pass = Callable[[], Tensor]


class CudaGraphs:
    """`compute` makes logits `[rows, vocabulary]` in the arena of all sequences, and changes nothing else."""

    def __init__(self, compute: Compute, arena: KVPool, device: torch.device) -> None:
        self._compute = compute
        self.arena = arena
        self._device = device
        self._inputs: dict[int, Tensor] = {}
        self._passes: dict[tuple[int, int], Pass | None] = {}  # None: there is no memory for it
        self._moves = arena.moves
        self._recorder = GraphCapture(device) if device.type == "cuda" else None
        self.are_possible = True  # until the model turns out to be one that cannot be recorded

    def logits(self, ids: Sequence[int], places: Sequence[int], positions: Sequence[int]) -> Tensor | None:
        """Of each row, until the next call; None where such a pass is not for here: it is too large, or could
        not be recorded."""
        rows = next((size for size in _ROWS if size >= len(ids)), None)
        length = _length(max(positions) + 1)
        if rows is None:
            return None
        filling = rows - len(ids)
        values = [[*ids, *[0] * filling], [*places, *[SCRATCH] * filling], [*positions, *[0] * filling]]
        made = self._pass(self._filled(rows, values), length) if self.are_possible else None
        return None if made is None else made()[: len(ids)]

    def forget(self) -> None:
        """Gives back the memory of all that is recorded; what is wanted again is recorded anew.

        All or nothing: they share a stream, whose work space ends with any of them (pytorch#193402).
        """
        self._passes.clear()
        if self._recorder is not None:
            self._recorder = GraphCapture(self._device)

    def _filled(self, rows: int, values: list[list[int]]) -> Tensor:
        """The one tensor for passes of so many rows, with these values."""
        if rows not in self._inputs:
            self._inputs[rows] = torch.zeros((3, rows), dtype=torch.long, device=self._device)
        self._inputs[rows].copy_(on_device(values, self._device))
        return self._inputs[rows]

    def _pass(self, inputs: Tensor, length: int) -> Pass | None:
        if self._moves != self.arena.moves:  # what is recorded reads where the arena was
            self.forget()
            self._moves = self.arena.moves
        key = (inputs.shape[1], length)
        if key not in self._passes:
            self._passes[key] = self._made(inputs, length)
        return self._passes[key]

    def _made(self, inputs: Tensor, length: int) -> Pass | None:
        def compute() -> Tensor:
            return self._compute(inputs, length)

        if inputs.shape[1] * length * max(self.arena.position_bytes, default=0) > _MOST_SEEN_BYTES:
            return None
        if self._recorder is None:
            return compute
        try:
            return self._recorder.recorded(compute)
        except torch.OutOfMemoryError:
            _log.warning("no memory for a recorded pass of %d rows over %d tokens", inputs.shape[1], length)
        except RuntimeError:  # torch's own is one
            _log.warning("this model's passes are not recorded", exc_info=True)
            self.are_possible = False
        self.forget()  # a failed recording ends the others' work space, too
        return None


def _length(tokens: int) -> int:
    length = _SHORTEST
    while length < tokens:
        length *= 2
    return length


class GraphCapture:
    """Records passes on a stream of its own, in memory that they share, as one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()

    def recorded(self, compute: Pass) -> Pass:
        """Raises RuntimeError for a pass that waits for its own results, as that of a mixture of experts may,
        and for one that is not the same when it is repeated."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            expected = self._rehearsed(compute)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                output = compute()
        finally:
            torch.cuda.set_stream(current)  # torch does not, where the end of a recording raises
            current.wait_stream(self._stream)

        def repeat() -> Tensor:
            graph.replay()
            return output

        if not relative_error(repeat(), expected) <= _TOLERANCE:  # also where it is not a number
            raise RuntimeError("a recorded pass gives other logits than the one that was recorded")
        return repeat

    def _rehearsed(self, compute: Pass) -> Tensor:
        with torch.cuda.stream(self._stream):
            for _ in range(_REHEARSALS):
                compute()
            with _no_waiting():
                return compute()


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Whatever would make this process wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
