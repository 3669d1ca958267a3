"""Calls functions before and after the passes of some of a model's modules."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def hooked(
    modules: Collection[nn.Module],
    before: Callable[[nn.Module], None],
    after: Callable[[nn.Module], None],
) -> Iterator[None]:
    """Within this context, calls `before` as a pass of a module begins, and `after` when it has succeeded."""
    hooks = [module.register_forward_pre_hook(lambda called, _: before(called)) for module in modules]
    hooks += [module.register_forward_hook(lambda called, *_: after(called)) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
