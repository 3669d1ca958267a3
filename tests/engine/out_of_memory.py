"""A device whose memory runs out, for the engine's tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ALLOCATIONS = (torch.ops.aten.new_empty.default, torch.ops.aten.new_zeros.default)
_VIEW = torch.ops.aten.view.default  # gives mapped memory, which has one dimension, its shape


class OutOfMemory(TorchDispatchMode):
    """Inside, allocations of keys and values for more than `longest` positions raise, the first `times`."""

    def __init__(self, *, longest: int, times: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._longest = longest
        self.left = times

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],  # torch's own signature, as are the others
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        is_allocation = function in _ALLOCATIONS or (function is _VIEW and args[0].dim() == 1)
        if is_allocation and len(args[1]) == 5 and self.left and args[1][3] > self._longest:
            self.left -= 1
            raise torch.OutOfMemoryError("no memory is left")
        return function(*args, **(kwargs or {}))
