"""The instructions that this processor has, of those that the product is written for."""

import os
import sys

import pytest
import torch

from app.engine.layers.compiled.compiler import CompilationError, find_compiler
from app.engine.layers.compiled.product import INSTRUCTIONS

_CAPABILITIES = torch.cpu.get_capabilities()
AVAILABLE = [name for name in INSTRUCTIONS if _CAPABILITIES.get(name, False) and sys.platform == "linux"]


def _has_compiler() -> bool:
    try:
        return bool(find_compiler(os.environ))
    except CompilationError:
        return False


needs_product = pytest.mark.skipif(
    not AVAILABLE or not _has_compiler(), reason="no C compiler here, or no product for this processor"
)
