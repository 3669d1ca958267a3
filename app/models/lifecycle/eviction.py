"""Owns which loaded models may stay: how many, in how much memory, and for how long unused.

Decides, and unloads nobody itself. Never names a model that is in use or pinned.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from app.core.config import Settings
from app.core.errors import ModelTooLarge
from app.core.machine import available_bytes
from app.core.model_folder import CONFIG, BrokenFile, read_json, weight_bytes
from app.models.hub.errors import gigabytes
from app.models.lifecycle.state import ModelState

_RUNTIME_BYTES = 400_000_000  # of a worker beside its weights: the interpreter, torch, activations
_SHARE = 0.95  # of what is free: the rest is for everyone else


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """`limit_bytes` None: whatever the machine has free, as `available` tells; on a graphics card a share of
    what it has in all, as its first worker tells. No card was at hand to try the latter on."""

    max_loaded: int
    limit_bytes: int | None
    idle_timeout_s: float | None
    is_on_host: bool
    is_float32: bool
    available: Callable[[], int] = available_bytes
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, settings: Settings) -> "EvictionPolicy":
        return cls(
            settings.max_loaded_models,
            settings.memory_bytes,
            settings.model_idle_timeout,
            is_on_host=settings.device in ("cpu", "auto"),
            is_float32=settings.dtype == "float32",
        )

    def needed_bytes(self, entry: ModelState, folder: Path) -> int:
        """What loading the folder will take: measured where it was loaded before, else from its files."""
        if entry.measured_bytes is not None:
            return entry.measured_bytes
        weights = weight_bytes(folder)
        widened = 2 if self.is_float32 and _is_stored_in_16_bits(folder) else 1
        return weights * widened + _RUNTIME_BYTES

    def room_bytes(self, entries: Iterable[ModelState]) -> int | None:
        """What another model may take; None where nothing is known: of a card before its first worker."""
        backends = [entry.loaded.backend for entry in entries if entry.loaded]
        cards = [backend.info.card_bytes for backend in backends if backend.info.card_bytes is not None]
        limit = int(max(cards) * _SHARE) if self.limit_bytes is None and cards else self.limit_bytes
        if limit is not None:
            return limit - sum(backend.stats.memory_bytes for backend in backends)
        return int(self.available() * _SHARE) if self.is_on_host else None

    def next_to_leave(
        self, entries: list[ModelState], current: ModelState | None, incoming: int = 0
    ) -> ModelState | None:
        """Where more models are loaded than may be: the one to unload."""
        loaded = [entry for entry in entries if entry.loaded is not None]
        return self.eviction_candidate(entries, current) if len(loaded) + incoming > self.max_loaded else None

    def eviction_candidate(self, entries: list[ModelState], current: ModelState | None) -> ModelState | None:
        """The model that is missed least: idle, least recently used; the current one after all others."""
        idle = [e for e in entries if e.loaded is not None and e.is_idle and not e.profile.is_pinned]
        return min(idle, key=lambda entry: (entry is current, entry.last_used), default=None)

    def idle_candidate(self, entries: list[ModelState]) -> ModelState | None:
        """A model that nobody has asked for long enough."""
        if self.idle_timeout_s is None:
            return None
        oldest = self.eviction_candidate(entries, None)
        is_over = oldest is not None and self.clock() - oldest.last_used >= self.idle_timeout_s
        return oldest if is_over else None

    def fits_instead(self, needed_bytes: int, leaving: ModelState, entries: Iterable[ModelState]) -> bool:
        """Whether a model that may be asked to leave, in use or not, would leave room enough."""
        room = self.room_bytes(entries)
        if room is None or leaving.loaded is None or leaving.profile.is_pinned:
            return False
        return needed_bytes <= room + leaving.loaded.backend.stats.memory_bytes

    def check(self, entry: ModelState, needed_bytes: int, entries: Iterable[ModelState]) -> None:
        """Raises ModelTooLarge where there is no room, whoever might still leave having left."""
        room = self.room_bytes(entries)
        if room is not None and needed_bytes > room:
            raise ModelTooLarge(
                f"{entry.profile.name} needs about {gigabytes(needed_bytes)} of memory; "
                f"{gigabytes(max(room, 0))} are free.",
                hint="Unload another model (POST /api/v1/unload-model), choose a smaller one, "
                "or raise LLM_MEMORY_GB if it is set.",
            )


def _is_stored_in_16_bits(folder: Path) -> bool:
    try:
        config = read_json(folder / CONFIG)
    except BrokenFile:
        return False
    return config.get("dtype", config.get("torch_dtype")) in ("bfloat16", "float16")
