"""Triton's kernel attends as plain attention does: on a GPU, or else in Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from app.engine.execution.attention.decode import find_kernel
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
