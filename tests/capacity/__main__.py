"""Runs `python -m tests.capacity`: measures costs, simulates, sizes, and checks predictions."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from tests.capacity.check import TOLERANCE, Comparison, compare
from tests.capacity.daily_users import DailyUse, needs
from tests.capacity.engine_steps import CASES
from tests.capacity.gpu_figures import check_rates, from_gpu_run
from tests.capacity.measure import ServedModel, measure
from tests.capacity.options import costs_path, goal_of, parser, scenario_of
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Outcome, Routing, Scenario, simulate
from tests.capacity.sizing import Sized, fewest_replicas, most_conversations
from tests.capacity.tables import (
    comparison_table,
    costs_table,
    needs_table,
    outcomes_table,
    rates_table,
    sizes_table,
)
from tests.capacity.workload import Quantity, Workload

_CHECK_REQUESTS = 16  # to measure the API process before a check
_ROUTINGS: tuple[Routing, ...] = ("affinity", "random")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return _COMMANDS[options.command](options, Console())


def _measure(options: argparse.Namespace, console: Console) -> int:
    costs, error = measure(_served(options), rounds=options.rounds)
    costs.write(options.out)
    console.print(costs_table(costs))
    console.print(f"Median difference between fitted and measured steps: {error:.1%}")
    return 0


def _gpu(options: argparse.Namespace, console: Console) -> int:
    host = _costs(options.host).host
    costs = from_gpu_run(options.results, options.model, options.card, host)
    costs.write(options.out)
    console.print(costs_table(costs))
    console.print(rates_table(check_rates(options.results, costs)))
    return 0


def _simulate(options: argparse.Namespace, console: Console) -> int:
    scenario = scenario_of(options)
    outcome = simulate(scenario)
    _print_outcomes(options, console, scenario, {scenario.routing: outcome})
    return 0


def _compare(options: argparse.Namespace, console: Console) -> int:
    scenario = scenario_of(options)
    outcomes = {}
    for keeps_kv in (True, False):
        limits = replace(scenario.limits, keeps_kv=keeps_kv)
        for routing in _ROUTINGS:
            name = f"{routing}, KV {'kept' if keeps_kv else 'recomputed'}"
            outcomes[name] = simulate(replace(scenario, limits=limits, routing=routing))
    _print_outcomes(options, console, scenario, outcomes)
    return 0


def _size(options: argparse.Namespace, console: Console) -> int:
    sized = fewest_replicas(scenario_of(options), goal_of(options), options.most)
    return _print_size(options, console, sized)


def _density(options: argparse.Namespace, console: Console) -> int:
    return _print_size(options, console, most_conversations(scenario_of(options), goal_of(options)))


def _plan(options: argparse.Namespace, console: Console) -> int:
    density = most_conversations(scenario_of(options), goal_of(options))
    if density is None:
        return _print_size(options, console, density)
    use, append_s = DailyUse(options.daily_turns, options.peak), options.append_ms / 1000
    found = needs(density, options.users, use, append_s, options.price)
    console.print(sizes_table("density", [(options.costs, density)], None))
    console.print(needs_table(f"busiest hour, costs: {options.costs}", found))
    outcome = _outcome_fields(density.outcome)
    _write(options.json, {"density": outcome, "needs": [asdict(need) for need in found]})
    return 0


def _check(options: argparse.Namespace, console: Console) -> int:
    served = _served(options)
    costs = _reached_costs(served, options) if options.costs is None else _costs(options.costs)
    comparisons: dict[int, Comparison] = {}
    for count in options.conversations:
        workload = Workload(
            conversations=count,
            turns=Quantity(options.turns, 0.5),
            think_s=Quantity(options.think, 1.0),
            message_tokens=Quantity(options.message, 0.7),
            reply_tokens=Quantity(options.reply, 0.5),
            duration_s=options.duration,
            warm_up_s=options.duration / 10,
            seed=options.seed,
        )
        comparisons[count] = compare(served, costs, workload, options.kv_gb)
        console.print(comparison_table(f"{costs.model}, {count} conversations", comparisons[count]))
    _write(options.json, {str(count): asdict(comparison) for count, comparison in comparisons.items()})
    is_close = all(comparison.is_close for comparison in comparisons.values())
    console.print(f"Within {TOLERANCE:.0%}: {'yes' if is_close else 'no'}")
    return 0 if is_close else 1


def _reached_costs(served: ServedModel, options: argparse.Namespace) -> ServerCosts:
    """Measures no more sequences together than the conversations can reach."""
    cases = tuple(case for case in CASES if case.sequences <= max(options.conversations))
    return measure(served, cases, rounds=1, requests=_CHECK_REQUESTS)[0]


def _costs(name: str) -> ServerCosts:
    return ServerCosts.read(costs_path(name))


def _served(options: argparse.Namespace) -> ServedModel:
    served = ServedModel.prepare(options.model, options.cache, options.threads, is_small=options.small)
    return replace(served, max_active_requests=options.active)


def _print_outcomes(
    options: argparse.Namespace, console: Console, scenario: Scenario, outcomes: dict[str, Outcome]
) -> None:
    title = f"{scenario.costs.model}, {scenario.replicas} × {scenario.costs.source}"
    console.print(outcomes_table(title, outcomes.items()))
    found = {name: _outcome_fields(outcome) for name, outcome in outcomes.items()}
    _write(options.json, {"scenario": asdict(scenario), "outcomes": found})


def _print_size(options: argparse.Namespace, console: Console, sized: Sized | None) -> int:
    console.print(sizes_table("goal met", [(options.costs, sized)], options.price))
    found = None if sized is None else _outcome_fields(sized.outcome)
    scenario = None if sized is None else asdict(sized.scenario)
    _write(options.json, {"scenario": scenario, "outcome": found})
    return 1 if sized is None else 0


def _outcome_fields(outcome: Outcome) -> dict[str, object]:
    return {name: value for name, value in asdict(outcome).items() if name != "records"}


def _write(path: Path | None, document: object) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")


_COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "measure": _measure,
    "gpu": _gpu,
    "simulate": _simulate,
    "compare": _compare,
    "size": _size,
    "density": _density,
    "plan": _plan,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
