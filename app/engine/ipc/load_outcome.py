"""Waits until a worker has loaded its model, or has failed to."""

import asyncio
import time

from app.core.errors import DomainError, ModelLoadFailed
from app.engine.ipc.messages import ModelInfo

RETRY_AFTER_S = 5  # after a worker could not be started, or ended while it was loading
LOAD_SILENCE_S = 300.0  # between two signs of life of a worker that is loading


class LoadOutcome:
    """How the load of a worker ends: with the facts of its model, or with an error."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._outcome: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._last_heard = time.monotonic()

    @property
    def info(self) -> ModelInfo:
        """The facts of the model, once it is loaded."""
        return self._outcome.result()

    def heard(self) -> None:
        """Call this for each message of the worker."""
        self._last_heard = time.monotonic()

    def settle(self, outcome: ModelInfo | DomainError) -> None:
        """Ends the wait. Only the first outcome counts."""
        if self._outcome.done():
            return
        if isinstance(outcome, DomainError):
            self._outcome.set_exception(outcome)
            self._outcome.exception()  # otherwise asyncio complains if every waiter has given up
        else:
            self._outcome.set_result(outcome)

    def abandon(self) -> None:
        """Ends a load whose outcome nobody awaits any more."""
        self._outcome.cancel()

    async def wait(self) -> None:
        """Returns when the model is loaded.

        Raises:
            ModelUnavailable: the worker reported why it cannot serve, ended, or fell silent.
        """
        while not self._outcome.done():
            await asyncio.wait((self._outcome,), timeout=1.0)
            if not self._outcome.done() and time.monotonic() - self._last_heard > LOAD_SILENCE_S:
                raise ModelLoadFailed(
                    f"The worker of {self._model_name} was silent for {LOAD_SILENCE_S:.0f} s while loading.",
                    hint="Check that the disk with the model's folder responds.",
                    retry_after=RETRY_AFTER_S,
                )
        self._outcome.result()
