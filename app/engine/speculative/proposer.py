"""Owns who guesses in a step, and how much: the request's own text, else a draft model, where that pays."""

import logging
from collections.abc import Sequence

from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.slot import KVAllocator
from app.engine.request import Request
from app.engine.speculative.cost import SpeculationCost, calibrate
from app.engine.speculative.draft_model import DraftModel

_log = logging.getLogger(__name__)


class Proposer:
    """`draft` runs a smaller model of the same vocabulary, if there is one."""

    def __init__(self, draft: ModelRunner | None) -> None:
        self._draft = None if draft is None else DraftModel(draft)
        self._price = SpeculationCost()

    def calibrate_speculation(self, runner: ModelRunner, store: KVAllocator) -> None:
        """Measures what guesses of this model cost; without it they are judged by what is usual."""
        self._price = calibrate(runner, None if self._draft is None else self._draft.runner, store)
        _log.info("a guess costs %.3f steps to check, %.3f to draft", self._price.row, self._price.draft)

    def recover(self) -> None:
        """Give device memory back."""
        if self._draft is not None:
            self._draft.runner.recover()

    def guess(self, decoding: Sequence[Request], most: int) -> None:
        """Sets the guesses, up to `most` ids each, of all that decode in this step."""
        for request in decoding:
            request.guess(most, self._price.check(len(decoding)))
        if self._draft is not None and most > 0:
            self._guess_with(self._draft, decoding, most)

    def _guess_with(self, draft: DraftModel, decoding: Sequence[Request], most: int) -> None:
        """For those whose own text says nothing. A draft model that fails is not asked again."""
        price = self._price.draft_and_check(len(decoding))
        silent = [request for request in decoding if not request.sequence.guess]
        counts = [(request.sequence, request.drafts(most, price)) for request in silent]
        try:
            draft.guess([(sequence, count) for sequence, count in counts if count > 0])
        except (RuntimeError, MemoryError):  # torch's own is a RuntimeError
            _log.exception("the draft model failed; it is not used any more")
            self._draft = None
