"""Simulates users in conversations with a number of servers, event by event."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import simpy

from tests.capacity.host import Wait
from tests.capacity.records import Figures, TurnRecord, figures
from tests.capacity.replica import REPLY_ID, Replica, ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.workload import Turns, Workload, fitting

Routing = Literal["affinity", "random"]
_MESSAGE_ID = 1  # every token of a message but a conversation's first, which is a number of its own


@dataclass(frozen=True, slots=True)
class Scenario:
    costs: ServerCosts
    limits: ServerLimits
    workload: Workload
    replicas: int = 1
    routing: Routing = "affinity"


@dataclass(frozen=True, slots=True)
class Outcome:
    records: list[TurnRecord]
    figures: Figures
    busy_share: float  # of the time, mean of all replicas
    most_kv_bytes: int  # of the replica that had most
    preemptions: int


def simulate(scenario: Scenario) -> Outcome:
    """Runs the scenario until every turn that began has ended. Equal scenarios have equal outcomes."""
    simulation = _Simulation(scenario)
    workload, replicas = scenario.workload, simulation.replicas
    elapsed_s = simulation.run()
    return Outcome(
        records=simulation.records,
        figures=figures(simulation.records, workload.warm_up_s, workload.duration_s),
        busy_share=sum(replica.host.busy_s for replica in replicas) / len(replicas) / elapsed_s,
        most_kv_bytes=max(replica.most_kv_bytes for replica in replicas),
        preemptions=sum(replica.preemptions for replica in replicas),
    )


class _Simulation:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._env = simpy.Environment()
        self._numbers = count(REPLY_ID + _MESSAGE_ID + 1)
        self.replicas = [
            Replica(self._env, scenario.costs, scenario.limits) for _ in range(scenario.replicas)
        ]
        self.records: list[TurnRecord] = []

    def run(self) -> float:
        """Returns the time at which the last turn ended."""
        users = [self._env.process(self._user(user)) for user in range(self._scenario.workload.conversations)]
        self._env.run(simpy.AllOf(self._env, users))
        return self._env.now

    def _user(self, user: int) -> Wait:
        costs = self._scenario.costs
        for conversation in self._scenario.workload.of_user(user):
            overhead = max(costs.first_overhead_tokens, costs.turn_overhead_tokens)
            yield from self._converse(user, fitting(conversation, costs.context_length, overhead))
            if self._env.now >= self._scenario.workload.duration_s:
                return

    def _converse(self, user: int, turns: Turns) -> Wait:
        costs, number = self._scenario.costs, next(self._numbers)
        ids, overhead = [number], costs.first_overhead_tokens - 1
        route = self._route(number)
        for turn in turns:
            yield self._env.timeout(turn.think_s)
            if self._env.now >= self._scenario.workload.duration_s:
                return
            prompt = [*ids, *[_MESSAGE_ID] * (overhead + turn.message_tokens)]
            record = TurnRecord(user, self._env.now)
            self.records.append(record)
            yield from next(route).serve(record, prompt, turn.reply_tokens)
            if not record.is_refused:
                ids, overhead = [*prompt, *[REPLY_ID] * turn.reply_tokens], costs.turn_overhead_tokens

    def _route(self, conversation: int) -> Iterator[Replica]:
        """Yields the replica of each turn."""
        source = random.Random(f"{self._scenario.workload.seed}/route/{conversation}")
        chosen = source.choice(self.replicas)
        while True:
            yield chosen if self._scenario.routing == "affinity" else source.choice(self.replicas)
