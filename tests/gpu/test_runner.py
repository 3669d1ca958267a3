"""A step that fails or hangs loses nothing of the others."""

import json
from pathlib import Path

from tests.gpu.figures import Figures
from tests.gpu.runner import Run
from tests.gpu.steps import NAMES, Step, steps


def test_steps_that_fail_and_hang_are_recorded_and_the_others_run(tmp_path: Path) -> None:
    chosen = [
        Step("missing", ("no_such_module",), 60),
        Step("hanging", ("http.server", "0"), 1),
        Step("passing", ("this",), 60),
    ]
    assert Run(tmp_path, limit_s=60).run(chosen) == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["missing"]["status"] == 1
    assert results["hanging"]["status"] == "stopped after 1 s"
    assert results["passing"]["status"] == 0
    assert "No module named no_such_module" in (tmp_path / "log.txt").read_text()
    assert "| passing | passed |" in (tmp_path / "table.md").read_text()


def test_steps_after_the_limit_are_not_started(tmp_path: Path) -> None:
    assert Run(tmp_path, limit_s=0).run([Step("late", ("this",), 60)]) == 1
    assert json.loads((tmp_path / "results.json").read_text())["late"] == {"status": "no time left"}


def test_figures_are_kept_one_by_one(tmp_path: Path) -> None:
    figures = Figures(str(tmp_path / "figures.json"))
    figures.add("first", 1.5)
    assert json.loads((tmp_path / "figures.json").read_text()) == {"first": 1.5}
    figures.add("second", "two")
    assert json.loads((tmp_path / "figures.json").read_text()) == {"first": 1.5, "second": "two"}


def test_every_step_has_its_name() -> None:
    assert {step.name for step in steps("cpu")} == set(NAMES)
