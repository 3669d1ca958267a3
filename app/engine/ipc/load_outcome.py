"""Waits until a worker has loaded its model, or has failed to."""

import asyncio
from collections.abc import Callable

from app.core.errors import DomainError, ModelLoadFailed
from app.engine.ipc.messages import ModelInfo

RETRY_AFTER_S = 5  # after a worker could not be started, or ended while it was loading
LOAD_SILENCE_S = 300.0  # between two signs of life of a worker that is loading
_LOOK_EVERY_S = 1.0


class LoadOutcome:
    """How the load of a worker ends: with the facts of its model, or with an error."""

    def __init__(
        self,
        model_name: str,
        is_stopped: Callable[[], bool],
        most_stopped_s: float,
        *,
        look_every_s: float = _LOOK_EVERY_S,
        silence_s: float = LOAD_SILENCE_S,
    ) -> None:
        """`is_stopped` returns whether the worker is kept from running, as by SIGSTOP.

        That may last for `most_stopped_s`: some tools stop processes for a while. Silence and stops count
        in looks, because the worker may have been paused as well while nobody looked.
        """
        self._model_name = model_name
        self._outcome: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._is_stopped = is_stopped
        self._look_every_s = look_every_s
        self._silence_s = silence_s
        self._most_stopped_looks = round(most_stopped_s / look_every_s)
        self._silent_looks = 0
        self._stopped_looks = 0

    @property
    def info(self) -> ModelInfo:
        """The facts of the model, once it is loaded."""
        return self._outcome.result()

    def heard(self) -> None:
        """Call this for each message of the worker."""
        self._silent_looks = 0

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
            ModelUnavailable: the worker reported why it cannot serve, ended, was stopped, or fell silent.
        """
        while not self._outcome.done():
            await asyncio.wait((self._outcome,), timeout=self._look_every_s)
            if not self._outcome.done():
                self._check_process()
        self._outcome.result()

    def _check_process(self) -> None:
        self._stopped_looks = self._stopped_looks + 1 if self._is_stopped() else 0
        if self._stopped_looks >= self._most_stopped_looks:
            raise ModelLoadFailed(
                f"The worker of {self._model_name} was stopped by a signal while loading.",
                hint="Find out what sends SIGSTOP to the server's processes.",
                retry_after=RETRY_AFTER_S,
            )
        self._silent_looks += 1
        if self._silent_looks * self._look_every_s > self._silence_s:
            raise ModelLoadFailed(
                f"The worker of {self._model_name} was silent for {self._silence_s:.0f} s while loading.",
                hint="Check that the disk with the model's folder responds.",
                retry_after=RETRY_AFTER_S,
            )
