"""Generates the models that are measured, with random weights: real shapes, or with --small little ones."""

import argparse
from pathlib import Path

from tests.benchmarks import folders, shapes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    for shape in (shapes.SMALL if options.small else shapes.FULL).values():
        folders.ensure(shape, options.cache)
    folders.ensure(shapes.PARTNER, options.cache)


if __name__ == "__main__":
    main()
