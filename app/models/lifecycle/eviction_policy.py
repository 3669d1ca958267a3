"""Decides which models stay loaded: how many, in how much memory, and for how long without a request.

It only decides. It never chooses a model that is in use or pinned.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from app.core.config import Settings
from app.core.errors import ModelTooLarge
from app.core.gguf_names import is_gguf
from app.core.literals import Quantization, QuantizationSetting
from app.core.machine import available_bytes
from app.core.model_folder import holds_all_bits, is_in_16_bits, weight_bytes
from app.models.hub.client import Weights
from app.models.hub.errors import gigabytes
from app.models.lifecycle.state import ModelState

_RUNTIME_BYTES = 400_000_000  # of a worker besides its weights: the interpreter, torch, activations
_CROWDED_S = 10  # after which other programs may have freed memory
_GGUF_GROWTH = 1.5  # blocks of 6 bits become 8-bit integers with their scales; those of 4 bits grow by 1.1
_SHARES = {"int8": 0.6, "int4": 0.45}  # of the bytes in 16 bits; embeddings keep those
FORMS: tuple[Quantization, ...] = get_args(Quantization)  # the one with the most bits first
_SHARE = 0.95  # of the memory may be used; the rest is for other programs


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """The memory that a model takes or would take, None if unknown. It `is_too_large` if it would not fit
    even with all others unloaded that may be."""

    needed_bytes: int | None = None
    is_measured: bool = False
    is_too_large: bool = False


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """The limits. Without `limit_bytes`, the limit is the memory that is `available` on the host.

    On a graphics card it is a share of the card's memory, which the first worker reports. That part has not
    been tested on a card.
    """

    max_loaded: int
    limit_bytes: int | None
    idle_timeout_s: float | None
    is_on_host: bool
    is_float32: bool
    quantization: QuantizationSetting = "none"
    available: Callable[[], int] = available_bytes
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def from_settings(cls, settings: Settings) -> "EvictionPolicy":
        return cls(
            settings.max_loaded_models,
            settings.memory_bytes,
            settings.model_idle_timeout,
            is_on_host=settings.device in ("cpu", "auto"),
            is_float32=settings.dtype == "float32",
            quantization=settings.quantization,
        )

    def quantization_of(self, state: ModelState, folder: Path, states: Iterable[ModelState]) -> Quantization:
        """Returns the form of the model's weights. `auto` is the one with the most bits that has room."""
        forms = self._forms(state)
        if len(forms) == 1:
            return forms[0]
        room = self.room_bytes(states)
        fitting = (
            form for form in forms if room is None or _estimated_bytes(folder, form, self.is_float32) <= room
        )
        return next(fitting, forms[-1])

    def _forms(self, state: ModelState) -> tuple[Quantization, ...]:
        """Returns the forms that the weights may have, the one with the most bits first."""
        wanted = state.profile.quantization or self.quantization
        if wanted != "auto":
            return (wanted,)
        return FORMS if self.is_on_host else FORMS[:1]

    def needed_bytes(self, state: ModelState, folder: Path, quantization: Quantization = "none") -> int:
        """Returns the memory for loading the folder: measured by an earlier load, or estimated from files.

        A load that has all weights as stored before it rounds them takes more than is measured after it.
        """
        measured = state.measured_bytes if len(self._forms(state)) == 1 else None
        if measured is not None and (quantization == "none" or not holds_all_bits(folder)):
            return measured
        estimate = _estimated_bytes(folder, quantization, self.is_float32)
        return estimate if measured is None else max(measured, estimate)

    def forecasts(
        self, wanted: Iterable[ModelState], states: Sequence[ModelState], on_disk: Mapping[str, Weights]
    ) -> dict[str, MemoryForecast]:
        """Returns the forecast of each `wanted` model of all `states`, by its name. Reads no files."""
        room, budget = self.room_bytes(states), self._budget_bytes(states)
        return {state.name: self._forecast(state, on_disk.get(state.name), room, budget) for state in wanted}

    def _budget_bytes(self, states: Sequence[ModelState]) -> int | None:
        """Returns the memory that a model may take if all others are unloaded that may be; None if unknown.

        It is unknown while a load takes memory that is neither available nor that of a loaded model.
        """
        room = self.room_bytes(states)
        if room is None or (self.limit_bytes is None and any(state.progress is not None for state in states)):
            return None
        evictable = (state.loaded for state in states if state.loaded and not state.profile.is_pinned)
        return room + sum(loaded.backend.stats.memory_bytes for loaded in evictable)

    def _forecast(
        self, state: ModelState, weights: Weights | None, room: int | None, budget: int | None
    ) -> MemoryForecast:
        if state.is_remote:
            return MemoryForecast(0, is_measured=True)  # none of this machine's
        if state.loaded is not None:
            return MemoryForecast(state.loaded.backend.stats.memory_bytes, is_measured=True)
        measured, forms = state.measured_bytes, self._forms(state)
        sizes = [size for form in forms if (size := self._expected_bytes(state, weights, form)) is not None]
        if measured is not None and (len(forms) == 1 or not sizes):
            has_peak = weights is not None and weights.holds_all_bits and forms != ("none",)
            sizes = [max(measured, *sizes) if has_peak else measured]
        if not sizes:
            return MemoryForecast()
        is_too_large = budget is not None and sizes[-1] > budget
        if measured is not None:
            return MemoryForecast(measured, True, is_too_large)
        fitting = next((size for size in sizes if room is None or size <= room), sizes[-1])
        return MemoryForecast(fitting, False, is_too_large)

    def _expected_bytes(self, state: ModelState, weights: Weights | None, form: Quantization) -> int | None:
        """Returns an estimate for one form; without files on this disk, from the catalogue's figure."""
        if weights is not None and is_gguf(weights.path):
            return int(weights.size_bytes * _GGUF_GROWTH) + _RUNTIME_BYTES
        if weights is not None:
            stored, has_16_bits = weights.size_bytes, weights.has_16_bits
            return _bytes_in(form, stored, has_16_bits, self.is_float32, weights.holds_all_bits)
        rough = state.profile.memory_bytes
        if rough is None or form == "none":
            return rough
        return _bytes_in(form, max(0, rough - _RUNTIME_BYTES), True, self.is_float32)

    def room_bytes(self, states: Iterable[ModelState]) -> int | None:
        """Returns the memory that another model may take; None if unknown, as on a card without a worker."""
        backends = [state.loaded.backend for state in states if state.loaded]
        cards = [backend.info.card_bytes for backend in backends if backend.info.card_bytes is not None]
        limit = int(max(cards) * _SHARE) if self.limit_bytes is None and cards else self.limit_bytes
        if limit is not None:
            return limit - sum(backend.stats.memory_bytes for backend in backends)
        return int(self.available() * _SHARE) if self.is_on_host else None

    def surplus_candidate(
        self, states: list[ModelState], current: ModelState | None, incoming: int = 0
    ) -> ModelState | None:
        """Returns the model to unload if `incoming` more models would exceed the number allowed."""
        loaded = [state for state in states if state.loaded is not None and not state.is_remote]
        return self.eviction_candidate(states, current) if len(loaded) + incoming > self.max_loaded else None

    def eviction_candidate(self, states: list[ModelState], current: ModelState | None) -> ModelState | None:
        """Returns the least recently used idle model; the current one only if no other is idle."""
        local = [s for s in states if s.loaded is not None and not s.is_remote]
        idle = [s for s in local if s.is_idle and not s.profile.is_pinned]
        return min(idle, key=lambda state: (state is current, state.last_used), default=None)

    def idle_candidate(self, states: list[ModelState]) -> ModelState | None:
        """Returns a model that has had no request for the idle timeout; None if all had one."""
        if self.idle_timeout_s is None:
            return None
        oldest = self.eviction_candidate(states, None)
        is_over = oldest is not None and self.clock() - oldest.last_used >= self.idle_timeout_s
        return oldest if is_over else None

    def fits_instead(self, needed_bytes: int, leaving: ModelState, states: Iterable[ModelState]) -> bool:
        """Returns whether unloading `leaving`, which may be in use, would make enough room."""
        room = self.room_bytes(states)
        if room is None or leaving.loaded is None or leaving.profile.is_pinned:
            return False
        return needed_bytes <= room + leaving.loaded.backend.stats.memory_bytes

    def check_possible(
        self, state: ModelState, needed_bytes: int, states: Iterable[ModelState], *, may_wait: bool
    ) -> None:
        """Raises ModelTooLarge if the model would not fit even with all others unloaded that may be.

        `may_wait` says whether those that are in use count as well.
        """
        states = list(states)
        room = self.room_bytes(states)
        leaving = [
            each.loaded.backend.stats.memory_bytes
            for each in states
            if each.loaded and not (each.is_remote or each.profile.is_pinned) and (may_wait or each.is_idle)
        ]
        if room is not None and needed_bytes > room + sum(leaving):
            raise ModelTooLarge(
                f"{state.name} needs about {gigabytes(needed_bytes)} of memory; "
                f"at most {gigabytes(max(room + sum(leaving), 0))} can be made free.",
                hint="Choose a smaller model, or raise LLM_MEMORY_GB if it is set.",
                retry_after=self._retry_after_s,
            )

    @property
    def _retry_after_s(self) -> int | None:
        return _CROWDED_S if self.limit_bytes is None else None

    def check(self, state: ModelState, needed_bytes: int, states: Iterable[ModelState]) -> None:
        """Raises ModelTooLarge if the model does not fit beside the loaded ones."""
        room = self.room_bytes(states)
        if room is not None and needed_bytes > room:
            raise ModelTooLarge(
                f"{state.name} needs about {gigabytes(needed_bytes)} of memory; "
                f"{gigabytes(max(room, 0))} are free.",
                hint="Unload another model (POST /api/v1/unload-model), choose a smaller one, "
                "or raise LLM_MEMORY_GB if it is set.",
                retry_after=self._retry_after_s,
            )


def _estimated_bytes(folder: Path, quantization: Quantization, is_float32: bool) -> int:
    stored = weight_bytes(folder)
    if is_gguf(folder):
        return int(stored * _GGUF_GROWTH) + _RUNTIME_BYTES
    return _bytes_in(quantization, stored, is_in_16_bits(folder), is_float32, holds_all_bits(folder))


def _bytes_in(
    quantization: Quantization, stored: int, has_16_bits: bool, is_float32: bool, holds_all: bool = False
) -> int:
    """Returns the memory for safetensors of this size. `holds_all`: whether a load has them as stored."""
    if quantization != "none" and holds_all:
        return stored + _RUNTIME_BYTES
    if quantization != "none":
        return int((stored if has_16_bits else stored / 2) * _SHARES[quantization]) + _RUNTIME_BYTES
    return stored * (2 if is_float32 and has_16_bits else 1) + _RUNTIME_BYTES
