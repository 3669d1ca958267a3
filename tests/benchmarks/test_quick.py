"""A quick run of the benchmark with the smallest model reports every measurement."""

import json
import math
from pathlib import Path

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
