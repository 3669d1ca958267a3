"""Runs `python -m tests.gpu`: tests and measures the engine on a machine with a GPU, and prepares that."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.gpu.runner import Run
from tests.gpu.steps import NAMES, steps
from tests.gpu.wheels import download, missing_packages


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "prepare":
        return _prepare(options)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = steps(options.device, small=options.small, only=options.only)
    return Run(options.out, limit_s=options.limit).run(chosen)


def _prepare(options: argparse.Namespace) -> int:
    there = options.there.read_text().split() if options.there else None
    pins = missing_packages(there)
    sys.stdout.write("\n".join(pins) + "\n")
    if options.folder is not None:
        download(pins, options.folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser(
        "prepare",
        help="name the packages that a machine with torch and transformers lacks (run it with the "
        "same versions of Python, torch and transformers)",
    )
    prepare.add_argument("folder", nargs="?", type=Path, help="where to download them as wheels")
    prepare.add_argument("--there", type=Path, help="a file with the names of all packages that are there")
    run = commands.add_parser("run", help="run all steps, each in a process of its own")
    run.add_argument(
        "--out", type=Path, required=True, help="the folder for results.json, table.md and log.txt"
    )
    run.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    run.add_argument("--limit", type=float, default=480, help="seconds for all steps together (default 480)")
    run.add_argument("--only", action="append", choices=NAMES, help="run this step only; may be repeated")
    run.add_argument("--small", action="store_true", help="measure small models instead of real shapes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
