"""Owns the models that can be asked for: the catalogue's and, where it is allowed, any other by its name."""

import re
from collections.abc import Mapping
from pathlib import Path

from app.core.catalogue import ModelProfile, Source, find_profile
from app.models.lifecycle.state import ModelState

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_MOST_OTHERS = 32  # models beyond the catalogue that are remembered at once
_WINDOW = 8192  # tokens, of a model that nobody described; less where its own is smaller


class ModelRegistry:
    def __init__(self, catalogue: Mapping[str, ModelProfile], allows_any: bool) -> None:
        self._catalogue = catalogue
        self._allows_any = allows_any
        self._entries = {name: ModelState(profile) for name, profile in catalogue.items()}

    def find(self, name: str) -> ModelState:
        """
        Raises:
            ModelNotFound: with the nearest names.
        """
        if name not in self._entries and self._allows_any and (profile := _any_profile(name)) is not None:
            self._forget_unused()
            self._entries[name] = ModelState(profile)
        return self._entries.get(name) or self._entries[find_profile(self._catalogue, name).name]

    def all(self) -> list[ModelState]:
        return list(self._entries.values())

    def _forget_unused(self) -> None:
        others = [name for name in self._entries if name not in self._catalogue]
        unused = [name for name in others if self._is_unused(self._entries[name])]
        for name in unused[: max(0, len(others) + 1 - _MOST_OTHERS)]:
            del self._entries[name]

    @staticmethod
    def _is_unused(entry: ModelState) -> bool:
        return entry.is_idle and entry.loaded is None and entry.progress is None


def _any_profile(name: str) -> ModelProfile | None:
    """What is known of a repository or a folder that no catalogue describes: nothing but its name."""
    is_folder = name.startswith(("/", "./", "../", "~"))
    if not is_folder and not _REPOSITORY.fullmatch(name):
        return None
    location = str(Path(name).expanduser().resolve()) if is_folder else name
    return ModelProfile(
        name,
        name.rstrip("/").rpartition("/")[2],
        "A folder of this machine" if is_folder else "A repository of the Hugging Face Hub",
        (Source(location),),
        context_length=_WINDOW,
        size_bytes=None,
        memory_bytes=None,
    )
