"""Triton's kernel attends as plain attention does."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from app.engine.execution.attention.decode import find_kernel
from tests.engine.tiny import DEVICE
from tests.server import ROOT


@pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed (it comes with torch for CUDA)"
)
def test_kernel_gives_the_output_of_plain_attention_in_the_interpreter() -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.engine.execution.decode_kernel"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )


def test_only_a_gpu_has_a_kernel() -> None:
    assert find_kernel(torch.device("cpu")) is None


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU (see docs/development.md)")
def test_the_kernel_runs_on_the_gpu() -> None:
    assert find_kernel(DEVICE) is not None
