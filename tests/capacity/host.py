"""The processors of one server's machine, as a resource of the simulation."""

from collections.abc import Generator

import simpy

from tests.capacity.server_costs import ServerCosts

_NEGLIGIBLE_S = 1e-6

Wait = Generator[simpy.Event, object, None]


class Host:
    """Runs steps on `threads` cores, and the other work of a server on the cores that steps leave.

    Steps take longer for two reasons. If they use all cores, other work gets its share of them: then by that
    work divided by the number of cores, because all are busy. And prompts are prepared in the interpreter
    that runs the steps: by a measured share of that time.
    """

    def __init__(self, env: simpy.Environment, costs: ServerCosts) -> None:
        self._env = env
        self._cores = costs.cores
        self._spare = max(costs.cores - costs.threads, 0)
        self._side_cores = simpy.Resource(env, self._spare or costs.cores)
        self._prepare_share = costs.host.prepare_share
        self._delay_s = 0.0  # of the step, by the work beside it
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
                self._delay_s += self._delay_of(process, seconds)
                yield self._env.timeout(seconds)

    def step(self, seconds: float) -> Wait:
        began, self._delay_s = self._env.now, 0.0
        yield self._env.timeout(seconds)
        while self._delay_s > _NEGLIGIBLE_S:
            delay_s, self._delay_s = self._delay_s, 0.0
            yield self._env.timeout(delay_s)
        self.busy_s += self._env.now - began

    def _delay_of(self, process: simpy.Resource, seconds: float) -> float:
        by_cores_s = seconds / self._cores if self._spare == 0 else 0.0
        by_interpreter_s = seconds * self._prepare_share if process is self.admission else 0.0
        return max(by_cores_s, by_interpreter_s)
