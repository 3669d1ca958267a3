"""Restarts the worker of the current model after it ended or got stuck, without waiting for a request.

A load balancer that checks readiness would send no request.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from app.core.errors import ShuttingDown
from app.models.lifecycle.loader import ModelLoader
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.state import ModelState

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_MAX_DELAY_S = 60.0
_FORGET_AFTER_S = 300.0  # after this time without a restart, the next one has no delay


class Reviver:
    """Restarts the worker. The delay before a restart doubles with each restart in a row, up to a minute."""

    def __init__(
        self, registry: ModelRegistry, loader: ModelLoader, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._clock = clock
        self._starts = 0
        self._last_start = -_FORGET_AFTER_S

    async def run(self) -> None:
        """Watches the current model as long as the server runs."""
        while True:
            self.check()
            await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Starts loading the current model if its worker has failed and the delay is over."""
        state = self._registry.current
        if state is None or not _is_down(state):
            return
        state.is_recovering = True
        now = self._clock()
        if now - self._last_start >= _FORGET_AFTER_S:
            self._starts = 0
        if now - self._last_start < self._delay_s:
            return
        self._starts, self._last_start = self._starts + 1, now
        logger.info("restarting a worker: model=%s restart=%d", state.name, self._starts)
        with suppress(ShuttingDown):
            self._loader.start_background_load(state)

    @property
    def _delay_s(self) -> float:
        return min(2.0 ** (self._starts - 1), _MAX_DELAY_S) if self._starts else 0.0


def _is_down(state: ModelState) -> bool:
    """Returns whether the worker has failed, or could not be restarted, and no load is in progress."""
    if state.progress is not None:
        return False
    return not state.is_serving if state.loaded is not None else state.is_recovering
