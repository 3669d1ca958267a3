"""Triton's kernel attends as plain attention does: on a GPU, or else in Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from app.engine.execution.attention.decode import find_kernel
from app.engine.execution.attention.interface import LayerAttention
from tests.engine.tiny import DEVICE
from tests.server import ROOT


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which comes with torch for CUDA")
def test_kernel_gives_the_output_of_plain_attention() -> None:
    interpreted = {"TRITON_INTERPRET": "1"} if DEVICE.type == "cpu" else {}
    subprocess.run(
        [sys.executable, "-m", "tests.engine.execution.decode_kernel"],
        cwd=ROOT,
        env=os.environ | interpreted,
        check=True,
        timeout=300,
    )


def test_a_gpu_has_a_kernel_and_a_cpu_has_none() -> None:
    assert find_kernel(torch.device("cpu")) is None
    assert DEVICE.type != "cuda" or find_kernel(DEVICE) is not None


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU (see docs/development.md)")
def test_kernel_finds_keys_whose_place_is_above_32_bits() -> None:
    """A layer of 11 GB: the keys of its last heads begin after more than 2**31 numbers."""
    kernel, kv_heads, dim, positions = find_kernel(DEVICE), 8, 256, 1_300_000
    assert kernel is not None and (kv_heads - 1) * positions * dim > 2**31
    stored = torch.empty(2, 1, kv_heads, positions, dim, device=DEVICE, dtype=torch.bfloat16)
    slot = torch.randn(2, 1, kv_heads, 40, dim, device=DEVICE, dtype=torch.bfloat16)
    stored[:, :, :, positions - 40 :] = slot
    query = torch.randn(1, kv_heads, 1, dim, device=DEVICE, dtype=torch.bfloat16)
    layer, last = LayerAttention(0, dim**-0.5, None, None), torch.tensor([39], device=DEVICE)
    outputs = [
        kernel.attend_rows(layer, query, keys, torch.tensor([start], device=DEVICE), last, 256)
        for keys, start in ((stored, positions - 40), (slot, 0))
    ]
    torch.testing.assert_close(*outputs)
