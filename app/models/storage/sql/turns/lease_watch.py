"""Decides whether a late lease has really been left: the clock may have been set forward."""

import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from app.models.storage.sql.turns.process_identity import has_ended, is_running


@dataclass(frozen=True, slots=True)
class Lease:
    """A row of the leases. `is_late` by the clock of the database."""

    conversation_id: str
    holder: str
    expires_at: float
    is_late: bool


class LeaseWatch:
    """Remembers when it first saw each late lease of a running process of this machine.

    Such a lease is left if its holder has not renewed it for `still_s` since then. That of another machine is
    left as soon as it is late.
    """

    def __init__(self, still_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._still_s = still_s
        self._clock = clock
        self._seen: dict[str, tuple[Lease, float]] = {}  # by conversation

    def is_left(self, lease: Lease) -> bool:
        """Returns whether another process may take the lease over."""
        if has_ended(lease.holder):
            return True
        if not lease.is_late or not is_running(lease.holder):
            return lease.is_late
        seen, since = self._seen.get(lease.conversation_id, (None, 0.0))
        if seen != lease:
            since = self._clock()
            self._seen[lease.conversation_id] = lease, since
        return self._clock() - since >= self._still_s

    def forget_others(self, conversation_ids: Set[str]) -> None:
        """Forgets all but these conversations."""
        self._seen = {each: seen for each, seen in self._seen.items() if each in conversation_ids}
