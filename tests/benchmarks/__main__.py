"""Runs `python -m tests.benchmarks`: measures, prints a table and writes the figures as JSON."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.benchmarks.plan import FULL, QUICK
from tests.benchmarks.run import LOADS, Benchmark
from tests.benchmarks.shapes import LLAMA_1B, NAMES

_CACHE = Path.home() / ".cache" / "llm-server-benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    if options.tokens is not None:
        plan = replace(plan, tokens=options.tokens)
    benchmark = Benchmark(
        plan=plan,
        cache=options.cache / ("small" if options.quick else "full"),
        console=Console(stderr=True, log_path=False),
        only=tuple(options.only or LOADS),
        quantization=options.quantization,
        python=options.transformers_serve,
        llama=options.llama_server,
        ggufs=dict(options.gguf),
    )
    report = asyncio.run(benchmark.run(options.models, lambda report: report.write(options.out)))
    report.write(options.out)
    Console().print(report.table())
    return 1 if report.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=_DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="small models and short replies (two minutes)")
    parser.add_argument(
        "--models", nargs="+", choices=NAMES, default=NAMES, help="the models to measure (default: all)"
    )
    parser.add_argument(
        "--only", action="append", choices=LOADS, help="measure this load only; may be repeated"
    )
    parser.add_argument("--tokens", type=_count, help="the length of a single reply in tokens")
    parser.add_argument(
        "--quantization", choices=("none", "int8", "int4"), default="none", help="the form of our own weights"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="the file for the figures")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="the folder for the generated models")
    parser.add_argument(
        "--transformers-serve",
        type=Path,
        metavar="PYTHON",
        help="the Python of an environment with transformers[serving], to measure it as well",
    )
    parser.add_argument("--llama-server", type=Path, metavar="BINARY", help="a llama-server to measure")
    parser.add_argument(
        "--gguf",
        type=_named_file,
        action="append",
        default=[],
        metavar="[MODEL=]FILE",
        help=f"the file that llama-server serves as MODEL (default: {LLAMA_1B.name}); may be repeated",
    )
    return parser


_DESCRIPTION = "Measures the engine and the server over HTTP, and compares both with the memory bandwidth."


def _count(text: str) -> int:
    count = int(text)
    if count < 4:
        raise argparse.ArgumentTypeError("too few tokens to measure a rate (at least 4)")
    return count


def _named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or LLAMA_1B.name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
