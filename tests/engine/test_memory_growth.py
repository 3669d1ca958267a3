"""The memory of a worker stays where it is, whatever the lengths of its prompts."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.core.catalogue import BUILTIN_PATH
from app.engine.ipc.child_process import worker_environment
from app.engine.ipc.messages import Stats
from app.engine.worker import Trimmer
from tests.engine.tiny import TinyModel

_MOST_BYTES = 100_000_000
_TIMEOUT_S = 300
_WITHOUT_BFLOAT16 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def as_stored(_: Path) -> Path:
    return BUILTIN_PATH


def in_float32(folder: Path) -> Path:
    """Makes a copy of the built-in model whose weights are stored in float32."""
    model = AutoModelForCausalLM.from_pretrained(BUILTIN_PATH, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUILTIN_PATH).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make_folder", "processor"),
    [(as_stored, {}), (in_float32, _WITHOUT_BFLOAT16)],
    ids=["16 bits", "float32"],
)
def test_worker_grows_little_over_200_prompt_lengths(
    make_folder: Callable[[Path], Path], processor: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.engine.many_lengths", str(make_folder(tmp_path))]
    ended = subprocess.run(
        command, env=worker_environment() | processor, stdout=subprocess.PIPE, timeout=_TIMEOUT_S, check=True
    )
    assert int(ended.stdout) <= _MOST_BYTES


class Trimmed:
    """A model that counts how often it was trimmed."""

    def __init__(self, engine: TinyModel) -> None:
        self.engine = engine.engine()
        self.trims = 0

    def stats(self) -> Stats:
        return Stats(0, 0, 0, 0, 0, 0)

    def trim(self) -> None:
        self.trims += 1


def test_trimmer_trims_once_at_rest_and_now_and_then_at_work(llama: TinyModel) -> None:
    now_s = [0.0]
    model = Trimmed(llama)
    trimmer = Trimmer(model, clock=lambda: now_s[0])
    trimmer.after_step(is_at_rest=True)
    assert model.trims == 0, "nothing was freed yet"
    trimmer.after_step(is_at_rest=False)
    assert model.trims == 0
    for _ in range(2):
        trimmer.after_step(is_at_rest=True)
        assert model.trims == 1
    for _ in range(50):
        now_s[0] += 1
        trimmer.after_step(is_at_rest=False)
    assert model.trims == 3
