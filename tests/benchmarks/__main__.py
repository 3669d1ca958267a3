"""`python -m tests.benchmarks`: measures, shows the table, writes the figures."""

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
    parser.add_argument("--quick", action="store_true", help="small models and short replies, in two minutes")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES, help="which; all if left out")
    parser.add_argument("--only", action="append", choices=LOADS, help="this load; may be given again")
    parser.add_argument("--tokens", type=_count, help="tokens of a single reply")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none", help="of our own weights")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="where the figures go")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="where the made models are kept")
    parser.add_argument(
        "--transformers-serve",
        type=Path,
        metavar="PYTHON",
        help="of an environment with transformers[serving]",
    )
    parser.add_argument("--llama-server", type=Path, metavar="BINARY")
    parser.add_argument(
        "--gguf",
        type=_named_file,
        action="append",
        default=[],
        metavar="[MODEL=]FILE",
        help=f"what llama-server serves as that model ({LLAMA_1B.name}); may be given again",
    )
    return parser


_DESCRIPTION = "Measures the engine alone and the server over HTTP, against the limit that memory sets."


def _count(text: str) -> int:
    count = int(text)
    if count < 4:
        raise argparse.ArgumentTypeError("too few to measure a pace")
    return count


def _named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or LLAMA_1B.name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
