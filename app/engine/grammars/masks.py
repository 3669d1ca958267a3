"""Computes the grammars' masks of a step in a thread, while the model computes the logits."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from app.engine.grammars.rule import GrammarRule


class MaskWorker:
    """Call `start` before the forward pass and `wait` after it. Its thread begins with the first grammar."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "masks")
        self._running: Future[None] | None = None

    def start(self, rules: Iterable[tuple[GrammarRule, Sequence[int]]]) -> None:
        """Compute the masks of each reply, and of its draft ids."""
        wanted = list(rules)
        self._running = self._executor.submit(_prepare, wanted) if wanted else None

    def wait(self) -> None:
        if self._running is not None:
            self._running.result()
            self._running = None


def _prepare(rules: Sequence[tuple[GrammarRule, Sequence[int]]]) -> None:
    for rule, draft_ids in rules:
        rule.prepare(draft_ids)
