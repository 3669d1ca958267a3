"""Finds the models that are complete on this disk, for the list of models, without waiting long for it."""

import asyncio
from collections.abc import Iterable, Mapping

from app.core.catalogue import ModelProfile
from app.models.hub.client import Hub, Weights
from app.models.hub.threads import in_thread

_LIMIT_S = 1.0


class DiskView:
    """Looks at the disk in one thread at a time. While the disk does not answer, the last result is used.

    The owner must await `close`.
    """

    def __init__(self, hub: Hub, limit_s: float = _LIMIT_S) -> None:
        self._hub = hub
        self._limit_s = limit_s
        self._seen: dict[str, Weights] = {}
        self._look: asyncio.Task[None] | None = None

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
        for profile in profiles:
            weights = self._hub.find(profile)
            if weights is None:
                self._seen.pop(profile.name, None)
            else:
                self._seen[profile.name] = weights
