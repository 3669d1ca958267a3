"""Owns what the command line can say. Light to import, as the keyboard is."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """None is what was not said. `resume` is empty for the last conversation; `message` is a one-shot's."""

    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    system: str | None = None
    resume: str | None = None
    message: str | None = None
    json: bool = False
    plain: bool = False
    no_color: bool = False

    @property
    def asks(self) -> bool:
        """Whether messages are typed as it goes on, as far as the command line says."""
        return self.message is None and not self.json

    def with_(self, **changes: Any) -> "Options":  # Any: as the fields are typed
        return replace(self, **changes)
