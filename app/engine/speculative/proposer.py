"""Proposes draft tokens for decoding requests, by prompt look-up or else a draft model, if that pays."""

import logging
from collections.abc import Sequence

from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.slot import KVAllocator
from app.engine.request import Request
from app.engine.scheduling.sequence import TokenSequence
from app.engine.speculative.acceptance_rate import AcceptanceRate
from app.engine.speculative.cost import SpeculationCost
from app.engine.speculative.draft_model import DraftModel
from app.engine.speculative.prompt_lookup import PromptLookup

_log = logging.getLogger(__name__)

_LOOKUP_PRIOR, _DRAFT_PRIOR = 0.5, 0.75  # usual acceptance rates
_READ_PER_TOKEN = 32  # ids that a draft model reads in the time that one of its right tokens saves
_READ_FREE = 64


class Proposer:
    """Speculation for all requests of one engine: `propose` before a step, `record` after it.

    `draft_model` has the served model's vocabulary. `cost` holds until `calibrate` measures it.
    """

    def __init__(self, draft_model: DraftModel | None, cost: SpeculationCost | None = None) -> None:
        self.draft_model = draft_model
        self.cost = SpeculationCost() if cost is None else cost
        self._requests: dict[str, _RequestSpeculation] = {}

    def calibrate(self, runner: ModelRunner, allocator: KVAllocator) -> None:
        """Measure the cost of this model's draft tokens."""
        draft_runner = None if self.draft_model is None else self.draft_model.runner
        self.cost = SpeculationCost.calibrate(runner, draft_runner, allocator)
        _log.info("a draft token costs %.3f steps to verify, %.3f to make", self.cost.row, self.cost.draft)

    def recover(self) -> None:
        """Give back the draft model's device memory."""
        if self.draft_model is not None:
            self.draft_model.runner.recover()

    def propose(self, decoding: Sequence[Request], max_rows: int) -> None:
        """Propose draft ids for all requests that decode in the next step, which may have `max_rows` rows."""
        limit = (max_rows - len(decoding)) // max(len(decoding), 1)
        for request in decoding:
            self._of(request).look_up(min(limit, request.draft_room), self.cost.verifying(len(decoding)))
        if self.draft_model is not None and limit > 0:
            self._draft(self.draft_model, decoding, limit)

    def record(self, request: Request, accepted: int) -> None:
        """Record that the first `accepted` draft ids of the request were right, before they are accepted."""
        self._of(request).learn(len(request.sequence.draft_ids), accepted)

    def forget(self, request: Request) -> None:
        """Drop the state of a request that has ended."""
        self._requests.pop(request.request_id, None)

    def _draft(self, draft_model: DraftModel, decoding: Sequence[Request], limit: int) -> None:
        """Use the draft model for requests without a match in their own text; if it fails, never again."""
        cost = self.cost.drafting(len(decoding))
        unmatched = [request for request in decoding if not request.sequence.draft_ids]
        wanted = [
            (
                request.sequence,
                self._of(request).draft_length(request.reply_tokens, min(limit, request.draft_room), cost),
            )
            for request in unmatched
        ]
        try:
            draft_model.propose([(sequence, count) for sequence, count in wanted if count > 0])
        except (RuntimeError, MemoryError):  # torch's out-of-memory error is a RuntimeError
            _log.exception("the draft model failed and is not used any more")
            self.draft_model = None

    def _of(self, request: Request) -> "_RequestSpeculation":
        if request.request_id not in self._requests:
            self._requests[request.request_id] = _RequestSpeculation(request.sequence)
        return self._requests[request.request_id]


class _RequestSpeculation:
    """One request's prompt look-up, and the acceptance rates of both sources of its draft ids."""

    def __init__(self, sequence: TokenSequence) -> None:
        self._sequence = sequence
        self._lookup = PromptLookup()
        self._lookup_rate, self._draft_rate = AcceptanceRate(_LOOKUP_PRIOR), AcceptanceRate(_DRAFT_PRIOR)
        self._last_rate = self._lookup_rate  # of the source of the last draft ids

    def look_up(self, limit: int, cost: float) -> None:
        """Propose up to `limit` ids that followed the last ids earlier; none if that does not pay."""

        ids = self._sequence.ids
        self._lookup.index(ids)
        count = 0
        if self._lookup.has_match:
            self._last_rate = self._lookup_rate
            count = self._lookup_rate.draft_length(limit, cost, len(ids))
        self._sequence.propose(self._lookup.continuation(ids, count))

    def draft_length(self, reply_tokens: int, limit: int, cost: float) -> int:
        """Returns how many ids the draft model should make; 0 if it has too much of the sequence to read.

        A reply of `reply_tokens` is expected to become about twice as long.
        """
        length = len(self._sequence.ids)
        unread = length - self._sequence.slot.draft_computed
        if unread > reply_tokens * _READ_PER_TOKEN + _READ_FREE:
            return 0
        self._last_rate = self._draft_rate
        return self._draft_rate.draft_length(limit, cost, length)

    def learn(self, proposed: int, accepted: int) -> None:
        if proposed > 0:
            self._last_rate.learn(proposed, accepted)
