"""One simulated server. Its queue, batches, prefill budget and KV cache are those of the engine itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import simpy

from app.engine.kv.prefix_cache import KVCache
from app.engine.scheduling.prefill_budget import PrefillBudget
from app.engine.scheduling.scheduler import Scheduler
from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.capacity.host import Host, Wait
from tests.capacity.records import TurnRecord
from tests.capacity.server_costs import ServerCosts
from tests.capacity.step_times import shape_of

REPLY_ID = 0  # every token of a reply; which tokens they are makes no difference


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The settings of a server that decide how it schedules. See docs/settings.md."""

    kv_cache_bytes: int
    max_active_requests: int = 16
    max_queued_requests: int = 64
    keeps_kv: bool = True  # False: every turn computes its whole prompt


@dataclass(slots=True, eq=False)
class _OpenRequest:
    record: TurnRecord
    sequence: TokenSequence
    reply_tokens: int
    ended: simpy.Event
    sampled: int = 0


@dataclass(slots=True, eq=False)
class _Delivery:
    """The tokens of one step, on their way to the clients."""

    firsts: list[TurnRecord] = field(default_factory=list)
    lasts: list[_OpenRequest] = field(default_factory=list)
    tokens: int = 0


class Replica:
    """`serve` runs one turn; steps run as long as there is work."""

    def __init__(self, env: simpy.Environment, costs: ServerCosts, limits: ServerLimits) -> None:
        self._env = env
        self._costs = costs
        self._limits = limits
        self.host = Host(env, costs)
        self._cache = KVCache(
            budget_bytes=limits.kv_cache_bytes,
            bytes_per_token=costs.bytes_per_token,
            max_tokens=costs.context_length,
        )
        self._scheduler = Scheduler(
            self._cache, max_running=limits.max_active_requests, step_tokens=costs.step_tokens
        )
        self._prefill_budget = PrefillBudget(costs.unnoticed_step_s)
        self._requests: dict[str, _OpenRequest] = {}
        self._accepted = 0
        self._inbox: list[_OpenRequest] = []
        self._news = env.event()  # a request has arrived or is prepared
        self.most_kv_bytes = 0
        env.process(self._run())

    @property
    def preemptions(self) -> int:
        return self._scheduler.preemptions

    def serve(self, record: TurnRecord, ids: Sequence[int], reply_tokens: int) -> Wait:
        """Runs a turn with these prompt ids to its end, and completes its record."""
        costs = self._costs.host
        yield from self.host.work(self.host.client, costs.client_request_s)
        yield from self.host.work(self.host.api, costs.request_s)
        if self._accepted >= self._limits.max_active_requests + self._limits.max_queued_requests:
            record.is_refused, record.ended_s = True, self._env.now
            return
        self._accepted += 1
        record.prompt_tokens, record.reply_tokens = len(ids), reply_tokens
        sequence = TokenSequence(f"{record.user}/{record.began_s}", ids, is_kept=self._limits.keeps_kv)
        request = _OpenRequest(record, sequence, reply_tokens, self._env.event())
        self._inbox.append(request)
        self._wake()
        yield request.ended
        self._accepted -= 1
        yield from self.host.work(self.host.api, costs.finish_s)
        record.ended_s = self._env.now

    def _wake(self) -> None:
        if not self._news.triggered:
            self._news.succeed()

    def _run(self) -> Wait:
        """Reads requests between steps, as a worker does, so that preparing them begins then."""
        while True:
            for request in self._inbox:
                self._env.process(self._prepare(request))
            self._inbox.clear()
            if not self._requests:
                self._news = self._env.event()
                yield self._news
                continue
            chunks = self._scheduler.plan(self._prefill_budget.prefill_rows(self._costs.step_tokens))
            began, shape = self._env.now, shape_of(chunks)
            yield from self.host.step(self._costs.host.loop_s + self._costs.step.seconds(shape))
            self._prefill_budget.learn(self._env.now - began, shape.prefill_rows)
            delivery = self._advance(chunks)
            if delivery.tokens:
                self._env.process(self._deliver(delivery))

    def _prepare(self, request: _OpenRequest) -> Wait:
        costs, sequence = self._costs.host, request.sequence
        prepare_s = costs.prepare_s + costs.prepare_token_s * len(sequence.ids)
        yield from self.host.work(self.host.admission, prepare_s)
        self._requests[sequence.request_id] = request
        self._scheduler.add(sequence)
        self._wake()

    def _advance(self, chunks: Sequence[Chunk]) -> _Delivery:
        self.most_kv_bytes = max(self.most_kv_bytes, self._cache.used_bytes)
        delivery = _Delivery()
        for chunk in chunks:
            request, is_last = self._requests[chunk.sequence.request_id], chunk.is_last
            chunk.sequence.advance(chunk.count)
            if is_last:
                self._take_token(request, delivery)
        return delivery

    def _take_token(self, request: _OpenRequest, delivery: _Delivery) -> None:
        delivery.tokens += 1
        request.sampled += 1
        request.sequence.accept((REPLY_ID,))
        if request.sampled == 1:
            request.record.cached_tokens = request.sequence.cached
            delivery.firsts.append(request.record)
        if request.sampled == request.reply_tokens:
            self._scheduler.finish(request.sequence)
            del self._requests[request.sequence.request_id]
            delivery.lasts.append(request)

    def _deliver(self, delivery: _Delivery) -> Wait:
        costs = self._costs.host
        yield from self.host.work(self.host.api, costs.token_s * delivery.tokens)
        yield from self.host.work(self.host.client, costs.client_token_s * delivery.tokens)
        for record in delivery.firsts:
            record.first_token_s = self._env.now
        for request in delivery.lasts:
            request.ended.succeed()
