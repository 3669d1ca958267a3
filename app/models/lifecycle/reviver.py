"""Loads the current model again after its worker failed, or its load did, without waiting for a request.

A load balancer that checks readiness would send no request. Other models wait for their next request.
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
    """Restarts the worker. The delay before a restart doubles with each restart in a row, up to a minute.

    A load that failed is repeated if its error says when to try again, and not before that.
    """

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
        """Starts loading the current model if it has failed and the delay is over."""
        state = self._registry.current
        if state is None or not _is_down(state):
            return
        now = self._clock()
        if now - self._last_start >= _FORGET_AFTER_S:
            self._starts = 0
        if not state.is_recovering and state.loaded is None:  # the load that failed counts as a start
            self._starts, self._last_start = self._starts + 1, now
        state.is_recovering = True
        if now - self._last_start < self._delay_s(state):
            return
        self._starts, self._last_start = self._starts + 1, now
        logger.info("restarting a worker: model=%s restart=%d", state.name, self._starts)
        with suppress(ShuttingDown):
            self._loader.start_background_load(state)

    def _delay_s(self, state: ModelState) -> float:
        wanted_s = (state.error and state.error.retry_after) or 0
        return max(wanted_s, min(2.0 ** (self._starts - 1), _MAX_DELAY_S) if self._starts else 0.0)


def _is_down(state: ModelState) -> bool:
    """Returns whether the model has failed in a way that may pass, and is not being loaded."""
    if state.progress is not None:
        return False
    if state.loaded is not None:
        return not state.is_serving
    return state.is_recovering or (state.error is not None and state.error.retry_after is not None)
