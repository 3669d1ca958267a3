"""Runs forward passes of few rows and fixed shapes: on a GPU, each shape is captured once as a CUDA graph.

Replaying a graph takes one launch instead of one per operation, and launches dominate the time of a small
batch. On other devices the same pass is computed without a graph, which the tests use.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from app.engine.device import on_device
from app.engine.kv.pool import PADDING_POSITION, KVPool
from app.engine.layers.schemes import relative_error

_log = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_MIN_LENGTH = 256  # positions; lengths are this number, multiplied again and again
_LENGTH_FACTOR, _LENGTH_FACTOR_IN_PLACE = 2, 4
_MAX_READ_BYTES = 2**29  # of keys and values that all rows of a pass copy in one layer
_WARM_UPS = 2  # passes before a capture, because an operation's initialisation cannot be captured
_TOLERANCE = 0.02  # relative error of the logits that a different order of summation may cause

Compute = Callable[[Tensor, int], Tensor]  # (ids, slot starts and positions `[3, rows]`; length) -> logits
ForwardPass = Callable[[], Tensor]


class CudaGraphs:
    """`compute` returns logits `[rows, vocabulary]` of sequences in the pool, and changes nothing else.

    `reads_in_place`: whether it copies no keys and values, so that a large length costs nothing by itself.
    """

    def __init__(
        self, compute: Compute, pool: KVPool, device: torch.device, *, reads_in_place: bool = False
    ) -> None:
        self._compute = compute
        self._reads_in_place = reads_in_place
        self.pool = pool
        self._device = device
        self._inputs: dict[int, Tensor] = {}
        self._passes: dict[tuple[int, int], ForwardPass | None] = {}  # None: too little memory for this shape
        self._moves = pool.moves
        self._capture = GraphCapture(device) if device.type == "cuda" else None
        self.are_possible = True  # until a capture shows that this model cannot be captured

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The rows and length of every pass that is ready."""
        return [shape for shape, forward in self._passes.items() if forward is not None]

    def fits(self, rows: int, tokens: int) -> bool:
        """Returns whether there may be a graph for so many rows of sequences with at most so many tokens."""
        size = _padded(rows)
        if size is None or not self.are_possible:
            return False
        copied = size * self._length(tokens) * max(self.pool.position_bytes, default=0)
        return self._reads_in_place or copied <= _MAX_READ_BYTES

    def logits(
        self, ids: Sequence[int], slot_starts: Sequence[int], positions: Sequence[int]
    ) -> Tensor | None:
        """Returns `[rows, vocabulary]`, valid until the next call.

        Returns None if the pass is too large for a graph or could not be captured.
        """
        tokens = max(positions) + 1
        rows = _padded(len(ids))
        if rows is None or not self.fits(rows, tokens):
            return None
        padding = rows - len(ids)
        values = [
            [*ids, *[0] * padding],
            [*slot_starts, *[PADDING_POSITION] * padding],
            [*positions, *[0] * padding],
        ]
        forward = self._pass(self._fill_inputs(rows, values), self._length(tokens))
        return None if forward is None else forward()[: len(ids)]

    def forget(self) -> None:
        """Give back the memory of all graphs. Shapes that are needed again are captured again.

        All graphs go together, because freeing one frees the workspace of their stream (pytorch#193402).
        """
        self._passes.clear()
        if self._capture is not None:
            self._capture = GraphCapture(self._device)

    def _length(self, tokens: int) -> int:
        length = _MIN_LENGTH
        while length < tokens:
            length *= _LENGTH_FACTOR_IN_PLACE if self._reads_in_place else _LENGTH_FACTOR
        return length

    def _fill_inputs(self, rows: int, values: list[list[int]]) -> Tensor:
        """Returns the input tensor of all passes with this number of rows, filled with these values."""
        if rows not in self._inputs:
            self._inputs[rows] = torch.zeros((3, rows), dtype=torch.long, device=self._device)
        self._inputs[rows].copy_(on_device(values, self._device))
        return self._inputs[rows]

    def _pass(self, inputs: Tensor, length: int) -> ForwardPass | None:
        if self._moves != self.pool.moves:  # the graphs still read the pool's old tensors
            self.forget()
            self._moves = self.pool.moves
        shape = (inputs.shape[1], length)
        if shape not in self._passes:
            self._passes[shape] = self._new_pass(inputs, length)
        return self._passes[shape]

    def _new_pass(self, inputs: Tensor, length: int) -> ForwardPass | None:
        def compute() -> Tensor:
            return self._compute(inputs, length)

        if self._capture is None:
            return compute
        try:
            return self._capture.capture(compute)
        except torch.OutOfMemoryError:
            _log.warning("too little memory for a CUDA graph: rows=%d tokens=%d", inputs.shape[1], length)
        except RuntimeError:  # torch's own errors are RuntimeErrors
            _log.warning("this model runs without CUDA graphs", exc_info=True)
            self.are_possible = False
        self.forget()  # a failed capture frees the other graphs' workspace, too
        return None


def _padded(rows: int) -> int | None:
    """Returns the smallest size with room for so many rows; None if there is none."""
    return next((size for size in _ROWS if size >= rows), None)


class GraphCapture:
    """Captures passes on a stream of its own. They share memory, because only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._memory: Any = torch.cuda.graph_pool_handle()

    def capture(self, compute: ForwardPass) -> ForwardPass:
        """Returns a function that replays the pass.

        Raises RuntimeError if the pass waits for its own results, as a mixture of experts may, or if the
        replay gives other logits.
        """
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            expected = self._warm_up(compute)
            graph = torch.cuda.CUDAGraph()
            # Threads that prepare requests do not disturb the capture.
            with torch.cuda.graph(
                graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"
            ):
                output = compute()
        finally:
            torch.cuda.set_stream(current)  # torch does not restore it if the end of a capture raises
            current.wait_stream(self._stream)

        def replay() -> Tensor:
            graph.replay()
            return output

        error = relative_error(replay(), expected)
        if not error <= _TOLERANCE:  # also if it is NaN
            raise RuntimeError(f"a CUDA graph gives other logits than its pass (relative error {error:.2g})")
        return replay

    def _warm_up(self, compute: ForwardPass) -> Tensor:
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                compute()
            with _no_synchronisation():
                return compute()


@contextmanager
def _no_synchronisation() -> Iterator[None]:
    """Makes every operation that waits for the device raise inside this context."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # torch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
