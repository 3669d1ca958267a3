"""Finds the models that are complete on this disk, for the list of models, without waiting long for it.

They are those that the server knows, and those that other programs keep.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from app.core.catalogue import ModelProfile
from app.models.hub.client import Hub, Weights
from app.models.hub.threads import in_thread

_LIMIT_S = 1.0

FindLocal = Callable[[], Iterable[ModelProfile]]


class DiskView:
    """Looks at the disk in one thread at a time. While the disk does not answer, the last result is used.

    The owner must await `close`.
    """

    def __init__(self, hub: Hub, find_local: FindLocal | None = None, limit_s: float = _LIMIT_S) -> None:
        """`find_local`, which a thread calls, returns the models of other programs."""
        self._hub = hub
        self._find_local = find_local
        self._found: tuple[ModelProfile, ...] = ()
        self._limit_s = limit_s
        self._seen: dict[str, Weights] = {}
        self._look: asyncio.Task[None] | None = None

    @property
    def found(self) -> tuple[ModelProfile, ...]:
        """The models of other programs that the last look found."""
        return self._found

    @property
    def seen(self) -> Mapping[str, Weights]:
        """The result of the last look."""
        return dict(self._seen)

    async def look(self, profiles: Iterable[ModelProfile]) -> Mapping[str, Weights]:
        """Returns the weights that are on this disk, by the profile's name."""
        if self._look is None or self._look.done():
            wanted = tuple(profiles)
            self._look = asyncio.create_task(in_thread(lambda: self._find(wanted)))
        await asyncio.wait((self._look,), timeout=self._limit_s)
        if self._look.done():
            self._look.result()
        return dict(self._seen)

    async def close(self) -> None:
        """Stops waiting for the disk."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait((self._look,))

    def _find(self, profiles: Iterable[ModelProfile]) -> None:
        if self._find_local is not None:
            self._found = tuple(self._find_local())
        for profile in {profile.name: profile for profile in (*profiles, *self._found)}.values():
            weights = self._hub.find(profile)
            if weights is None:
                self._seen.pop(profile.name, None)
            else:
                self._seen[profile.name] = weights
