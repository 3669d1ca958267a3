"""Keeps the state of every known model, and which of them is current.

The known models are those of the catalogue and, if the settings allow it, others that were requested by name.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from app.core.catalogue import ModelProfile, Source, aliases_of, find_profile
from app.core.config import DEFAULT_CONTEXT_LENGTH
from app.core.errors import ModelNotFound
from app.core.gguf_names import is_gguf
from app.core.paths import expand, is_path
from app.models.lifecycle.state import ModelState

# Ollama's names for files of the Hub begin with its host.
_REPOSITORY = re.compile(
    r"((hf\.co|huggingface\.co)/)?(?P<location>[\w-][\w.-]*/[\w-][\w.-]*(:([\w-][\w.-]*/)?[\w.-]+)?)"
)
_MAX_OTHERS = 32  # known models that are not in the catalogue


class ModelRegistry:
    """`current` answers requests that name no model; `note` tells a person why it is the current one."""

    def __init__(
        self,
        catalogue: Mapping[str, ModelProfile],
        allows_any: bool,
        context_length: int = DEFAULT_CONTEXT_LENGTH,
    ) -> None:
        """`context_length` limits the windows of models outside the catalogue, in tokens."""
        self.current: ModelState | None = None
        self.note: str | None = None
        self._catalogue = catalogue
        self._aliases = aliases_of(catalogue)
        self._allows_any = allows_any
        self._context_length = context_length
        self._found: frozenset[str] = frozenset()  # names of models that other programs keep here
        self._states = {name: ModelState(profile) for name, profile in catalogue.items()}

    def find(self, name: str) -> ModelState:
        """Returns the state of the model with this name or alias.

        Raises:
            ModelNotFound: the hint has the most similar names, or the setting that allows this one.
        """
        name = self._known_as(name)
        if name not in self._states and self._allows_any and (profile := self._undescribed(name)) is not None:
            self._forget_unused()
            self._states[name] = ModelState(profile)
        if name not in self._states and not self._allows_any and self._undescribed(name) is not None:
            raise ModelNotFound(
                "No model of the catalogue has that name.",
                hint="LLM_ALLOW_ANY_MODEL=true lets requests name any repository, folder or GGUF file. "
                f"The models are: {', '.join(self._listed())}.",
            )
        return self._states.get(name) or self._states[find_profile(self._listed(), name).name]

    def _known_as(self, name: str) -> str:
        """Returns the name of the model with this alias; the same name if no model has."""
        return name if name in self._states else self._aliases.get(name, name)

    def _listed(self) -> dict[str, ModelProfile]:
        """Returns the models of the catalogue, then those of other programs."""
        found = {name: self._states[name].profile for name in sorted(self._found)}
        return {**self._catalogue, **found}

    def _undescribed(self, name: str) -> ModelProfile | None:
        """Returns a profile for a model outside the catalogue, or for `BASE+ADAPTER`; else None."""
        for base, adapter in _pairs(name):
            known = self._states.get(base)
            profile = _undescribed(base, self._context_length) if known is None else known.profile
            if profile is not None and profile.remote is None:
                adapted = _adapted(profile, adapter, name)
                if adapted is not None:
                    return adapted
        return _undescribed(name, self._context_length)

    def set_found(self, profiles: Iterable[ModelProfile]) -> None:
        """Makes the models known that other programs keep on this machine, in place of those found before."""
        new = {profile.name: profile for profile in profiles if profile.name not in self._catalogue}
        for name in self._found - new.keys():
            if self._is_unused(self._states[name]):
                del self._states[name]
        for name, profile in new.items():
            known = self._states.get(name)
            if known is None or (known.profile != profile and self._is_unused(known)):  # it may have moved
                self._states[name] = ModelState(profile)
        self._found = frozenset(new)
        self._aliases = {**aliases_of(new), **aliases_of(self._catalogue)}

    def all(self) -> list[ModelState]:
        """Returns the models of the catalogue and of other programs, and those in use or that served."""
        listed = self._catalogue.keys() | self._found
        return [state for name, state in self._states.items() if name in listed or self._counts(state)]

    def _counts(self, state: ModelState) -> bool:
        has_served = state.measured_bytes is not None and state.error is None
        return has_served or not self._is_unused(state)

    def _forget_unused(self) -> None:
        others = [name for name in self._states if name not in self._catalogue and name not in self._found]
        unused = [name for name in others if self._is_unused(self._states[name])]
        for name in unused[: max(0, len(others) + 1 - _MAX_OTHERS)]:
            del self._states[name]

    def _is_unused(self, state: ModelState) -> bool:
        is_loaded = state.loaded is not None or state.progress is not None
        return state.is_idle and not is_loaded and state is not self.current


def _pairs(name: str) -> Iterator[tuple[str, str]]:
    """Yields the bases and adapters that the name may mean. A path that exists is none of them.

    A base that is a path but does not exist is only meant if the adapter is plainly a path, too.
    """
    if "+" not in name or _exists(name):  # in this order: a look at the disk may take long
        return
    for place in (place for place, character in enumerate(name) if character == "+"):
        base, adapter = name[:place], name[place + 1 :]
        if not is_path(base) or is_path(adapter) or _exists(base):
            yield base, adapter


def _exists(name: str) -> bool:
    try:
        return is_path(name) and expand(name).exists()
    except (OSError, ValueError):
        return False


def _undescribed(name: str, context_length: int) -> ModelProfile | None:
    """Returns a profile for a repository, folder or GGUF file that is not in the catalogue; else None."""
    location = _location(name)
    if location is None:
        return None
    return ModelProfile(
        name,
        name.rstrip("/").rpartition("/")[2],
        _description(name),
        (Source(location),),
        context_length=context_length,
        size_bytes=None,
        memory_bytes=None,
    )


def _adapted(base: ModelProfile, adapter: str, name: str) -> ModelProfile | None:
    """Returns a profile for the base model with an adapter; None if `adapter` cannot be its location."""
    location = _location(adapter)
    if location is None:
        return None
    return replace(
        base,
        name=name,
        display_name=f"{base.display_name} + {adapter.rstrip('/').rpartition('/')[2]}",
        description=f"{base.description}, with an adapter",
        sources=base.sources[:1],  # an adapter fits no other model
        adapter=Source(location),
        draft=None,
        is_pinned=False,
    )


def _location(name: str) -> str | None:
    """Returns the location of a source; None if the name cannot be one."""
    if not is_path(name):
        found = _REPOSITORY.fullmatch(name)
        return None if found is None else found["location"]
    try:
        return os.path.abspath(expand(name))  # without a look at the disk
    except ValueError:
        return None


def _description(name: str) -> str:
    if not is_path(name):
        return "A repository of the Hugging Face Hub"
    return "A GGUF file on this machine" if is_gguf(name) else "A folder on this machine"
