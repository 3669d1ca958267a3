"""Computes everything between the linear layers of a decoder layer, in C functions called through ctypes."""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from app.engine.layers.compiled.compiler import CompilationError, Compiler, usual_compiler
from app.engine.layers.compiled.library import load_library, usual_folder
from app.engine.layers.compiled.product import INSTRUCTIONS, best_instructions

_log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("row_kernels.c")
_FLAGS = ("-ffp-contract=fast",)
MOST_DIM = 256  # of a head
_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64


class Norm(ctypes.Structure):
    """See the C file. RMSNorm without a bias, else LayerNorm."""

    _fields_ = (
        *(("weight", _POINTER), ("bias", _POINTER)),
        *(("size", _INT64), ("eps", ctypes.c_float), ("is_bfloat16", ctypes.c_int32)),
    )


class Attention(ctypes.Structure):
    """See the C file."""

    _fields_ = (
        *(("query_norm", _POINTER), ("key_norm", _POINTER), ("rope", _POINTER)),
        *(("heads", _INT64), ("kv_heads", _INT64), ("dim", _INT64), ("window", _INT64)),
        *(("scale", ctypes.c_float), ("eps", ctypes.c_float), ("is_bfloat16", ctypes.c_int32)),
    )


class RowKernels:
    """The compiled functions, which the C file describes. Pointers are numbers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.add_and_norm: Any = library.add_and_norm  # a function of ctypes
        self.add_and_norm.argtypes = (ctypes.POINTER(Norm), _INT64, _POINTER, _POINTER, _POINTER)
        self.gate: Any = library.gate
        self.gate.argtypes = (ctypes.c_int, _INT64, _INT64, _POINTER, _POINTER)
        self.attend: Any = library.attend
        pointers = (_POINTER,) * 5  # rows, slots, capacities, positions, output
        self.attend.argtypes = (ctypes.POINTER(Attention), _INT64, *pointers, ctypes.c_int)
        for function in (self.add_and_norm, self.gate, self.attend):
            function.restype = None


def pointer(tensor: Tensor | None) -> int | None:
    """Returns the address of a contiguous tensor, which must outlive its use."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


@cache
def row_kernels() -> RowKernels | None:
    """Returns the kernels for this processor; None, and logs why, if they cannot be compiled."""
    try:
        return load_kernels(best_instructions(), usual_folder(), usual_compiler())
    except CompilationError as error:
        _log.info("single tokens are computed by torch alone, which is slower: %s", error)
        return None


def load_kernels(instructions: str, folder: Path, compiler: Compiler) -> RowKernels:
    """Returns the kernels compiled for these instructions, which the processor must have.

    The library is kept in `folder`. Raises CompilationError.
    """
    flags = (*INSTRUCTIONS[instructions], *_FLAGS)
    return RowKernels(load_library(_SOURCE, flags, folder, compiler))
