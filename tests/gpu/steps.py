"""The steps of a run on a GPU, the most important first. Each is a command with a time limit of its own."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

# Verbose, so that the log has the outcome of every test even if the step is stopped.
_PYTEST = ("pytest", "--no-cov", "-v", "-p", "no:cacheprovider", "-W", "default", "--tb=short", "-n", "12")
_TESTS = (
    "tests/engine/test_golden.py",
    "tests/engine/execution",
    "tests/engine/sampling/test_sampler.py",
    "tests/engine/speculative",
    "tests/engine/test_core.py",
    "tests/engine/test_logprobs.py",
    "tests/engine/test_overlapped_steps.py",
    "tests/engine/test_sampling_rules.py",
    "tests/engine/test_several_answers.py",
    "tests/engine/grammars/test_structured_output.py",
    "tests/engine/loading/test_self_check.py",
    "tests/engine/own_cache/test_caches.py",
    "tests/engine/own_cache/test_features.py",
    "tests/engine/own_cache/test_golden.py",
)
NAMES = (
    *("weights", "imports", "smoke", "tests", "llama3-1b", "gpt2", "reloads", "server", "server gpt2"),
    *("profile", "transformers"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """`python -m` with these arguments. A step that `is_background` runs beside those that follow."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    environment: dict[str, str] = field(default_factory=dict)
    is_background: bool = False


def steps(device: str, *, small: bool = False, only: Sequence[str] | None = None) -> list[Step]:
    """Returns the steps in their order, which take seven minutes together.

    `small` measures small models in place of those of real shapes.
    """
    cache = str(Path(gettempdir()) / f"gpu-models-{'small' if small else 'full'}")
    size = ("--small",) if small else ()
    measured = ("--device", device, "--cache", cache, *size)
    tests = {"TEST_DEVICE": device}
    found = [
        Step("weights", ("tests.gpu.weights", "--cache", cache, *size), 180, is_background=True),
        Step("imports", ("tests.gpu.imports",), 40),
        Step("smoke", ("tests.gpu.smoke", "--device", device), 60),
        Step("tests", (*_PYTEST, *_TESTS), 180, tests),
        Step("llama3-1b", ("tests.gpu.speed", "llama3-1b", *measured), 90),
        Step("gpt2", ("tests.gpu.speed", "gpt2", *measured), 60),
        Step("reloads", ("tests.gpu.reloads", "--device", device), 100),
        Step("server", ("tests.gpu.server", "llama3-1b", *measured), 90),
        Step("server gpt2", ("tests.gpu.server", "gpt2", *measured), 90),
        Step("profile", ("tests.gpu.profile", *measured), 60),
        Step("transformers", ("tests.gpu.reference", *measured), 90),
    ]
    return [step for step in found if only is None or step.name in only]


def command(step: Step) -> list[str]:
    return [sys.executable, "-m", *step.arguments]
