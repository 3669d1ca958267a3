"""Compares forms of the weights: `python -m tests.benchmarks.forms MODEL --forms none int4 --gguf FILE`.

All engines and servers run at the same time, and each load is given to one after the other while the rest
are idle. A change of the machine's speed during the run therefore changes the figures of all of them.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from app.core.literals import Quantization
from tests.benchmarks import loads, machine, peers, targets
from tests.benchmarks.loads import Figures
from tests.benchmarks.models import BenchmarkModel, prepare_model
from tests.benchmarks.plan import FULL, QUICK, Plan
from tests.benchmarks.shapes import FULL as SHAPES
from tests.benchmarks.targets import PeerTarget, Target
from tests.benchmarks.vocabulary import Words

_CACHE = Path.home() / ".cache" / "llm-server-benchmarks"
_FORMS: tuple[Quantization, ...] = ("none", "int8", "int4")
_USERS = 8
_WINDOW = 1024  # tokens of each conversation, enough for every load
ROWS = (  # of the table: the figure, its label, a factor, and its digits
    ("memory.own", "private memory after the load, MB", 1e-6, 0),
    ("memory.mapped", "mapped files in memory, MB", 1e-6, 0),
    ("single.decode", "one stream, tok/s", 1, 1),
    ("prefill.first", "first token of a prompt of 512 tokens, ms", 1e3, 0),
    (f"users{_USERS}.decode", f"{_USERS} users, all decoding, tok/s", 1, 1),
    (f"users{_USERS}.total", f"{_USERS} users, 2 turns, tok/s", 1, 1),
    (f"users{_USERS}.first", f"{_USERS} users, first token, turn 1, s", 1, 2),
)

Load = Callable[[Target, Plan, Words], Awaitable[Figures]]


@dataclass
class Column:
    """One target, and its figures of each load and round."""

    name: str
    target: Target
    figures: list[Figures] = field(default_factory=list)

    def figure(self, key: str) -> float | None:
        """Returns the median over the rounds; None if no load had the figure."""
        values = [figures[key] for figures in self.figures if key in figures]
        return median(values) if values else None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    size = QUICK if options.quick else FULL
    plan = replace(size, tokens=options.tokens, repetitions=1, users=(_USERS,))
    model = prepare_model(
        options.model, options.cache / ("small" if size.is_small else "full"), is_small=size.is_small
    )
    assert model is not None  # only the built-in model may lack its weights
    columns = asyncio.run(_compare(model, plan, options))
    Console(width=160).print(_table(f"{model.name}, {machine.describe()['cpu']}", columns))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.forms", description=__doc__)
    parser.add_argument("model", choices=tuple(SHAPES))
    parser.add_argument("--forms", nargs="*", choices=_FORMS, default=_FORMS, help="of our own engine")
    parser.add_argument("--llama-server", type=Path, metavar="BINARY", default=Path("llama-server"))
    parser.add_argument("--gguf", nargs="*", type=Path, default=[], help="the files that llama-server serves")
    parser.add_argument("--loads", nargs="+", choices=tuple(_LOADS), default=tuple(_LOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="the length of a single reply in tokens")
    parser.add_argument("--quick", action="store_true", help="with a small model")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="the folder for the generated models")
    return parser


async def _compare(model: BenchmarkModel, plan: Plan, options: argparse.Namespace) -> list[Column]:
    assert model.vocabulary is not None
    log = Console(stderr=True, log_path=False).log
    columns: list[Column] = []
    async with AsyncExitStack() as stack:
        for name, starting in _starting(model, options):
            log(name)
            columns.append(await _started(stack, name, starting))
        for seed in range(options.rounds):
            for load in options.loads:
                for column in columns:
                    figures = await _LOADS[load](column.target, plan, Words(model.vocabulary, seed))
                    log(f"{column.name}: {figures}")
                    column.figures.append(figures)
    return columns


def _starting(
    model: BenchmarkModel, options: argparse.Namespace
) -> Iterator[tuple[str, AbstractAsyncContextManager[Target]]]:
    for form in options.forms:
        yield f"engine, {form}", targets.engine(replace(model, context_length=_WINDOW), form)
    for file in options.gguf:
        peer = peers.llama_server(options.llama_server, file.resolve(), slots=_USERS, slot_tokens=_WINDOW)
        yield f"llama-server, {file.stem}", _serving(peer)


@asynccontextmanager
async def _serving(peer: peers.Peer) -> AsyncIterator[Target]:
    with peers.running(peer) as url:
        async with targets.connection(url) as http:
            yield PeerTarget(peer.name, http, peer.fields)


async def _started(stack: AsyncExitStack, name: str, starting: AbstractAsyncContextManager[Target]) -> Column:
    """Starts a target and lets it answer once, after which its memory is measured."""
    memory = machine.MemoryOfChildren()
    column = Column(name, await stack.enter_async_context(starting))
    await loads.warm_up(column.target)
    column.figures.append({"memory.own": memory.own_bytes(), "memory.mapped": memory.mapped_bytes()})
    return column


async def _single(target: Target, plan: Plan, words: Words) -> Figures:
    return await loads.single(target, plan, [words.message(plan.message_tokens)])


async def _together(target: Target, plan: Plan, words: Words) -> Figures:
    return await loads.together(target, plan, words, _WINDOW, _USERS)


async def _users(target: Target, plan: Plan, words: Words) -> Figures:
    return await loads.users(target, plan, words, _USERS)


async def _prefill(target: Target, plan: Plan, words: Words) -> Figures:
    return await loads.prefill(target, words)


_LOADS: dict[str, Load] = {
    "single": _single,
    "prefill": _prefill,
    "together": _together,
    "users": _users,
}


def _table(title: str, columns: list[Column]) -> Table:
    table = Table("", title=title)
    for column in columns:
        table.add_column(column.name, justify="right")
    for key, label, factor, digits in ROWS:
        values = [column.figure(key) for column in columns]
        if any(value is not None for value in values):
            table.add_row(label, *("" if v is None else f"{v * factor:,.{digits}f}" for v in values))
    return table


if __name__ == "__main__":
    sys.exit(main())
