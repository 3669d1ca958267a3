"""The processors of one server's machine, as a resource of the simulation."""

from collections.abc import Generator

import simpy

from tests.capacity.server_costs import ServerCosts

_NEGLIGIBLE_S = 1e-6

Wait = Generator[simpy.Event, object, None]


class Host:
    """Runs steps on `threads` cores, and the other work of a server on the cores that steps leave.

    If steps use all cores, other work still gets its share of them, and the step takes longer: by that work
    divided by the number of cores, because all of them are busy.
    """

    def __init__(self, env: simpy.Environment, costs: ServerCosts) -> None:
        self._env = env
        self._cores = costs.cores
        self._spare = max(costs.cores - costs.threads, 0)
        self._side_cores = simpy.Resource(env, self._spare or costs.cores)
        self._side_s = 0.0  # side work since the last step ended
        self.api = simpy.Resource(env)  # one event loop
        self.admission = simpy.Resource(env)  # one thread
        self.client = simpy.Resource(env)  # the load generator, where it shares the machine
        self.busy_s = 0.0  # in steps

    def work(self, process: simpy.Resource, seconds: float) -> Wait:
        """Spends processor time in a process or thread that does one thing at a time."""
        if seconds == 0:
            return
        with process.request() as turn:
            yield turn
            with self._side_cores.request() as core:
                yield core
                self._side_s += seconds
                yield self._env.timeout(seconds)

    def step(self, seconds: float) -> Wait:
        began, self._side_s = self._env.now, 0.0
        yield self._env.timeout(seconds)
        while self._spare == 0 and self._side_s > _NEGLIGIBLE_S:
            taken_s, self._side_s = self._side_s / self._cores, 0.0
            yield self._env.timeout(taken_s)
        self.busy_s += self._env.now - began
