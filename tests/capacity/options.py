"""The command line of `python -m tests.capacity`."""

import argparse
from pathlib import Path

from tests.capacity.daily_users import DailyUse
from tests.capacity.measure import MODELS
from tests.capacity.replica import ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Routing, Scenario
from tests.capacity.sizing import Goal
from tests.capacity.workload import Quantity, Workload

_CACHE = Path.home() / ".cache" / "llm-server-benchmarks" / "full"
_MEASURED = Path(__file__).parent / "measured"
_DEFAULTS = Workload(conversations=1)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.capacity",
        description="Predicts how many servers a number of conversations needs, from measured step times.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True)
    _measuring(commands)
    simulate = _scenario(commands, "simulate", "run one scenario and print its figures")
    simulate.add_argument("--replicas", type=_positive, default=1, help="servers")
    simulate.add_argument("--routing", choices=("affinity", "random"), default="affinity", help=_ROUTING)
    simulate.add_argument("--recompute", action="store_true", help="keep no keys and values between turns")
    compare = _scenario(
        commands, "compare", "compare affinity with random routing, and KV kept with recomputed"
    )
    compare.add_argument("--replicas", type=_positive, default=4, help="servers")
    size = _scenario(commands, "size", "find the fewest replicas that meet the goal, and their cost")
    _goal(size)
    size.add_argument("--most", type=_positive, default=1024, help="replicas to try")
    density = _scenario(commands, "density", "find the most conversations that the replicas can hold")
    density.add_argument("--replicas", type=_positive, default=1, help="servers")
    _goal(density)
    _planning(commands)
    return made


def _planning(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    plan = _scenario(commands, "plan", "work out what numbers of daily users need, from the density")
    plan.add_argument("--replicas", type=_positive, default=4, help="servers in the simulation")
    _goal(plan)
    use = DailyUse()
    plan.add_argument(
        "--users", type=_positive, nargs="+", default=[1_000, 100_000, 10_000_000], help="a day"
    )
    plan.add_argument("--daily-turns", type=float, default=use.turns, help="of one user")
    plan.add_argument("--peak", type=float, default=use.peak, help="load of the busiest hour over the mean")
    plan.add_argument(
        "--append-ms",
        type=float,
        default=14.7,
        help="processor time of storing a turn (PostgreSQL, by `python -m tests.benchmarks.storage`)",
    )


def scenario_of(options: argparse.Namespace) -> Scenario:
    costs = ServerCosts.read(costs_path(options.costs))
    workload = Workload(
        conversations=options.conversations,
        turns=Quantity(options.turns, _DEFAULTS.turns.variation),
        think_s=Quantity(options.think, _DEFAULTS.think_s.variation),
        message_tokens=Quantity(options.message, _DEFAULTS.message_tokens.variation),
        reply_tokens=Quantity(options.reply, _DEFAULTS.reply_tokens.variation),
        duration_s=options.duration,
        warm_up_s=options.duration / 3,
        seed=options.seed,
    )
    keeps_kv = not getattr(options, "recompute", False)
    limits = ServerLimits(int(options.kv_gb * 1e9), options.active, options.queued, keeps_kv)
    routing: Routing = getattr(options, "routing", "affinity")
    return Scenario(costs, limits, workload, getattr(options, "replicas", 1), routing)


def goal_of(options: argparse.Namespace) -> Goal:
    return Goal(options.p95, options.gap / 1000)


def costs_path(name: str) -> Path:
    """Returns the file of costs that the name stands for: one of this package's, or a path."""
    return found if (found := _MEASURED / f"{name}.json").is_file() else Path(name)


_ROUTING = "whether the turns of a conversation go to one server or to any"


def _measuring(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    measure = _command(commands, "measure", "measure the costs of a server with a model on this machine")
    _served(measure)
    measure.add_argument("--rounds", type=_positive, default=2, help="how often each case is measured")
    measure.add_argument("--out", type=Path, required=True, help="the file for the costs, as JSON")
    gpu = _command(commands, "gpu", "make costs of the figures that `python -m tests.gpu run` has measured")
    gpu.add_argument("results", type=Path, help="results.json of the run, with the steps MODEL and profile")
    gpu.add_argument("--model", choices=MODELS, default="llama3-1b", help="the model")
    gpu.add_argument("--card", required=True, help="the name of the graphics card")
    gpu.add_argument("--host", default="gpt2-cpu", help="costs measured elsewhere, for the API process")
    gpu.add_argument("--out", type=Path, required=True, help="the file for the costs, as JSON")
    check = _command(commands, "check", "compare predictions with a real run on this machine")
    _served(check)
    check.add_argument("--costs", help="a file of costs (default: measure them first)")
    check.add_argument("--conversations", type=_positive, nargs="+", default=[8], help="one run for each")
    check.add_argument("--kv-gb", type=float, default=0.5, help="of each server's KV cache")
    check.add_argument("--turns", type=float, default=4, help="mean turns of a conversation")
    check.add_argument("--think", type=float, default=2, help="mean seconds before a message")
    check.add_argument("--message", type=float, default=40, help="mean tokens of a message")
    check.add_argument("--reply", type=float, default=30, help="mean tokens of a reply")
    check.add_argument("--duration", type=float, default=60, help="seconds of each run")
    check.add_argument("--seed", type=int, default=0, help="of the drawn lengths and times")
    check.add_argument("--json", type=Path, help="the file for the figures")


def _served(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", choices=MODELS, default="gpt2", help="the model")
    command.add_argument("--threads", type=_positive, default=1, help="of the worker, LLM_THREADS")
    command.add_argument("--active", type=_positive, default=16, help="LLM_MAX_ACTIVE_REQUESTS")
    command.add_argument("--small", action="store_true", help="a small model of the same kind")
    command.add_argument("--cache", type=Path, default=_CACHE, help="the folder of the generated models")


def _scenario(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, description: str
) -> argparse.ArgumentParser:
    command = _command(commands, name, description)
    known = ", ".join(sorted(file.stem for file in _MEASURED.glob("*.json")))
    command.add_argument("--costs", default="gpt2-cpu", help=f"what a server spends: {known}, or a JSON file")
    command.add_argument("--conversations", type=_positive, default=100, help="that are held at a time")
    command.add_argument("--kv-gb", type=float, default=1.0, help="of each server's KV cache")
    command.add_argument("--active", type=_positive, default=16, help="LLM_MAX_ACTIVE_REQUESTS")
    command.add_argument("--queued", type=_positive, default=64, help="LLM_MAX_QUEUED_REQUESTS")
    command.add_argument("--turns", type=float, default=_DEFAULTS.turns.mean, help="mean of a conversation")
    command.add_argument(
        "--think", type=float, default=_DEFAULTS.think_s.mean, help="mean seconds between reply and message"
    )
    command.add_argument(
        "--message", type=float, default=_DEFAULTS.message_tokens.mean, help="mean tokens of a message"
    )
    command.add_argument(
        "--reply", type=float, default=_DEFAULTS.reply_tokens.mean, help="mean tokens of a reply"
    )
    command.add_argument(
        "--duration", type=float, default=_DEFAULTS.duration_s, help="simulated seconds; a third is warm-up"
    )
    command.add_argument("--seed", type=int, default=0, help="of the drawn lengths and times")
    command.add_argument("--json", type=Path, help="the file for the figures")
    return command


def _goal(command: argparse.ArgumentParser) -> None:
    goal = Goal()
    command.add_argument(
        "--p95", type=float, default=goal.first_token_p95_s, help="most seconds to the first token, of 95 %%"
    )
    command.add_argument("--gap", type=float, default=1000 * goal.gap_s, help="most ms between tokens, mean")
    command.add_argument("--price", type=float, help="of one server's machine per hour, in any currency")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, description: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=description,
        description=description[0].upper() + description[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
