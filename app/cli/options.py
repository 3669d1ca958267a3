"""The command-line options. Imports nothing heavy, because the keyboard is set up before anything else."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """None means not given. An empty `resume` means the last conversation. `message` is sent on its own,
    without a chat. `url_setting` says where the `url` comes from."""

    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    system: str | None = None
    resume: str | None = None
    message: str | None = None
    json: bool = False
    plain: bool = False
    no_color: bool = False
    url_setting: str = "--url"

    @property
    def is_interactive(self) -> bool:
        """Whether messages are typed, as far as the options say: standard input may still be a pipe."""
        return self.message is None and not self.json

    def with_(self, **changes: Any) -> "Options":  # Any: as the fields are typed
        return replace(self, **changes)
