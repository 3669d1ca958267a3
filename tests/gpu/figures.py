"""Writes a step's figures to the file that the runner reads, after every figure."""

import json
import os
import sys
from pathlib import Path

FILE_VARIABLE = "GPU_STEP_FIGURES"


class Figures:
    """The figures of this step so far, by name."""

    def __init__(self, path: str | None = None) -> None:
        """`path` is the file; without one, the runner has named it in the environment."""
        self._figures: dict[str, object] = {}
        self._path = os.environ.get(FILE_VARIABLE) if path is None else path

    def add(self, name: str, value: object) -> None:
        self._figures[name] = value
        sys.stdout.write(f"{name}: {value}\n")
        sys.stdout.flush()
        if self._path is not None:
            partial = Path(self._path + ".partial")
            partial.write_text(json.dumps(self._figures))
            partial.replace(self._path)
