"""The cache of architectures that keep part of it in attributes of their modules, as Griffin does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig


@dataclass
class ModuleCache:
    """One sequence's cache: what attention keeps, and the modules' tensors by place in the model and name."""

    attention: DynamicCache
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, config: PreTrainedConfig) -> "ModuleCache":
        return cls(DynamicCache(config=config))

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Puts the states into the modules for one pass, and takes them out again afterwards."""
        modules = list(model.modules())
        others = _tensors(modules)  # such as weights that are no parameters
        for (place, name), state in self.states.items():
            setattr(modules[place], name, state)
        try:
            yield
        finally:
            found = _tensors(modules).items()
            self.states = {key: state for key, state in found if state is not others.get(key)}
            for place, name in self.states:
                setattr(modules[place], name, None)


def _tensors(modules: Sequence[nn.Module]) -> dict[tuple[int, str], Tensor]:
    return {
        (place, name): value
        for place, module in enumerate(modules)
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    }
