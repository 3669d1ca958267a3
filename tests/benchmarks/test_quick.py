"""Quick runs of the benchmarks with the smallest model report every measurement."""

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import forms
from tests.benchmarks.__main__ import main
from tests.benchmarks.report import MEASURES


def test_quick_run_measures_everything(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["--quick", "--models", "gpt2", "--cache", str(tmp_path), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    (model,) = report["models"]
    of_process = ("start", "switch", "memory")
    for target in ("engine", "HTTP"):
        asked = {m.key for m in MEASURES if not m.key.startswith((*of_process, "single.share"))}
        assert asked <= set(model["figures"][target])
    measured = model["figures"]["engine"] | model["figures"]["HTTP"]
    assert set(measured) == {m.key for m in MEASURES}
    assert {key: value for key, value in measured.items() if not 0 < value < math.inf} == {}
    assert model["bandwidth"] > 0


def test_quick_comparison_of_forms_measures_every_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gpt2", "--quick", "--forms", "int4", "--rounds", "1", "--cache", str(tmp_path)]
    assert forms.main(arguments) == 0
    table = capsys.readouterr().out
    assert {label for _, label, _, _ in forms.ROWS if label not in table} == set()
