"""The product of rows and grouped integers, compiled from C for this processor and called through ctypes."""

import ctypes
import logging
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from app.engine.layers.compiled.compiler import CompilationError, Compiler, usual_compiler
from app.engine.layers.compiled.library import load_library, usual_folder
from app.engine.layers.compiled.tiles import TiledWeights

_log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("grouped_product.c")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {  # flags of the compiler, the fastest instructions first
    "avx512_vnni": (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
    "avx_vnni": (*_AVX2, "-mavxvnni"),
    "avx2": _AVX2,
}
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # of rows, as the C files number them
_ARGUMENTS = (
    *(ctypes.c_int, *(4 * (ctypes.c_void_p,)), ctypes.c_float),  # the weight
    ctypes.c_void_p,  # its bias
    *(ctypes.c_int64, ctypes.c_int64),  # its inputs and outputs
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),  # rows, and how many of them each weight has
    *(ctypes.c_int, ctypes.c_void_p),  # dtype, and output
    ctypes.c_int,
)


class GroupedProduct:
    """The compiled function. It runs on as many threads as torch does, in torch's pool of threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._function = library.multiply_grouped
        self._function.argtypes = _ARGUMENTS

    def __call__(
        self,
        weights: TiledWeights,
        bias: Tensor | None,
        rows: Tensor,
        output: Tensor,
        counts: Tensor | None = None,
    ) -> None:
        """Fills `output` `[rows, outputs]` with `rows @ weight.T + bias`.

        Of several weights, each has as many consecutive rows as `counts` says, in int64, and its own row of
        the `bias`, which is in float32. Rows and output are contiguous, and both in float32 or both in
        bfloat16.
        """
        zeros = weights.zeros
        zeros_at = None if zeros is None else zeros.data_ptr()
        are_steps = zeros is not None and zeros.dtype == torch.int8
        all_rows = ctypes.c_int64(rows.numel() // rows.shape[-1])
        failed = self._function(
            weights.bits,
            weights.integers.data_ptr(),
            weights.scales.data_ptr(),
            None if are_steps else zeros_at,
            zeros_at if are_steps else None,
            weights.unit,
            None if bias is None else bias.data_ptr(),
            rows.shape[-1],
            output.shape[-1],
            rows.data_ptr(),
            ctypes.byref(all_rows) if counts is None else counts.data_ptr(),
            weights.count,
            DTYPES[rows.dtype],
            output.data_ptr(),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for rounded rows")


@cache
def grouped_product() -> GroupedProduct | None:
    """Returns the product for this processor; None, and logs why, if it cannot be compiled."""
    try:
        product = load_product(best_instructions(), usual_folder(), usual_compiler())
    except CompilationError as error:
        _log.warning("4- and 8-bit layers use torch's products, which are slower: %s", error)
        return None
    return product


def load_product(
    instructions: str,
    folder: Path,
    compiler: Compiler,
    temporary: Path | None = None,
) -> GroupedProduct:
    """Returns the product compiled for these instructions, which the processor must have.

    The library is kept in `folder`. If it cannot be kept there, it is made for this process only, in a folder
    within `temporary`, by default the system's. Raises CompilationError.
    """
    flags = INSTRUCTIONS[instructions]
    return GroupedProduct(load_library(_SOURCE, flags, folder, compiler, temporary))


def best_instructions() -> str:
    """Returns the fastest instructions of this processor. Raises CompilationError if there are none."""
    capabilities = torch.cpu.get_capabilities()
    used = torch.backends.cpu.get_cpu_capability()  # less than there is if ATEN_CPU_CAPABILITY says so
    for name in INSTRUCTIONS if sys.platform == "linux" else ():
        if capabilities.get(name, False) and (used == "AVX512" or not name.startswith("avx512")):
            return name
    raise CompilationError("there is no product for this processor and system")
