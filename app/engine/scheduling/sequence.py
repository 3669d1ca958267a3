"""The token ids of one request, and how many of them the KV cache holds. It does not import torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.engine.kv.slot import Slot


_MOST_LOGITS = 64  # rows


class TokenSequence:
    """The prompt and reply of one request. Only its own methods change it.

    The leading `computed` ids have their keys and values in the slot; the ids after them are pending.
    Draft ids are guesses at what follows `ids`. The next forward pass verifies them. `is_kept` says whether
    later requests may use its keys and values. With `needs_all_logits` every id is computed, none is taken
    from the KV cache, and a pass gives logits for each.
    """

    __slots__ = (
        "_cached",
        "_computed",
        "_draft_ids",
        "_ids",
        "_slot",
        "is_kept",
        "needs_all_logits",
        "request_id",
        "scope",
    )

    def __init__(
        self,
        request_id: str,
        ids: Iterable[int],
        scope: str = "",
        slot: "Slot | None" = None,
        *,
        is_kept: bool = True,
        needs_all_logits: bool = False,
    ) -> None:
        self.request_id = request_id
        self.needs_all_logits = needs_all_logits
        self.scope = scope
        self.is_kept = is_kept
        self._ids = list(ids)
        self._slot = slot
        self._computed = 0
        self._cached: int | None = None
        self._draft_ids: tuple[int, ...] = ()

    @property
    def ids(self) -> Sequence[int]:
        return self._ids

    @property
    def computed(self) -> int:
        """The number of leading ids whose keys and values are in the slot."""
        return self._computed

    @property
    def pending(self) -> int:
        """The number of ids that forward passes still have to compute; 1 while decoding."""
        return len(self._ids) - self._computed

    @property
    def longest_chunk(self) -> int:
        """How many pending ids one pass may compute. Logits of all of them take memory."""
        return min(self.pending, _MOST_LOGITS) if self.needs_all_logits else self.pending

    @property
    def cached(self) -> int:
        """The number of ids that were in the KV cache when the sequence first got a slot; 0 before that."""
        return self._cached or 0

    @property
    def slot(self) -> "Slot":
        assert self._slot is not None, "a waiting sequence has no slot"
        return self._slot

    @property
    def has_slot(self) -> bool:
        return self._slot is not None

    @property
    def draft_ids(self) -> tuple[int, ...]:
        return self._draft_ids

    def attach(self, slot: "Slot", computed: int) -> None:
        """Use this slot, which holds the keys and values of the first `computed` ids."""
        assert self._slot is None, "attached twice"
        self._slot = slot
        self.begin(computed)

    def begin(self, computed: int) -> None:
        """Start from a cache that has read the first `computed` ids."""
        self._computed = computed
        if self._cached is None:
            self._cached = computed

    def detach(self) -> "Slot":
        """Stop using the slot, and return it. `computed` still says how much is in it."""
        slot, self._slot = self.slot, None
        self._draft_ids = ()
        return slot

    def rewind(self) -> None:
        """Start again from the first id, because the keys and values are lost."""
        self._computed = 0
        self._draft_ids = ()

    def advance(self, count: int) -> None:
        """Record that a forward pass has computed the next `count` pending ids."""
        assert count <= self.pending
        self._computed += count

    def propose(self, draft_ids: Sequence[int]) -> None:
        """Let the next forward pass verify these draft ids."""
        self._draft_ids = tuple(draft_ids)

    def clear_draft(self) -> None:
        self._draft_ids = ()

    def accept(self, ids: Sequence[int], verified: int = 0) -> None:
        """Append ids. The first `verified` were draft ids of the last pass, which computed their keys and
        values."""
        self._ids += ids
        self._computed += min(verified, len(ids))
        self._draft_ids = ()

    def truncate(self, length: int) -> None:
        """Drop the ids from this number on."""
        del self._ids[length:]
        self._computed = min(self._computed, length)


@dataclass(slots=True)
class Chunk:
    """The next `count` pending ids of a sequence, part of one forward pass."""

    sequence: TokenSequence
    count: int
    draft_ids: tuple[int, ...] = ()  # computed after the last pending id
    is_last: bool = field(init=False)  # whether no id stays pending, so that a token follows

    def __post_init__(self) -> None:
        self.is_last = self.count == self.sequence.pending  # the sequence may end before the pass does

    @property
    def rows(self) -> int:
        return self.count + len(self.draft_ids)

    @property
    def logits_rows(self) -> int:
        """The number of rows, at the end, whose logits are needed."""
        if self.sequence.needs_all_logits:
            return self.rows
        return 1 + len(self.draft_ids) if self.is_last else 0
