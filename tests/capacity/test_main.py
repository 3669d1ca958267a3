"""The commands that measure nothing."""

import json
from pathlib import Path

from tests.capacity.__main__ import main
from tests.capacity.server_costs import ServerCosts

SHORT = ("--conversations", "8", "--duration", "30", "--think", "3", "--reply", "10")


def test_costs_are_the_same_after_a_file(costs: ServerCosts, tmp_path: Path) -> None:
    costs.write(tmp_path / "costs.json")
    assert ServerCosts.read(tmp_path / "costs.json") == costs


def test_simulate_writes_its_figures(costs: ServerCosts, tmp_path: Path) -> None:
    file, out = tmp_path / "costs.json", tmp_path / "out.json"
    costs.write(file)
    assert main(["simulate", "--costs", str(file), *SHORT, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["scenario"]["workload"]["conversations"] == 8
    assert found["outcomes"]["affinity"]["figures"]["turns"] > 0


def test_size_fails_if_no_number_of_replicas_meets_the_goal(costs: ServerCosts, tmp_path: Path) -> None:
    file, out = tmp_path / "costs.json", tmp_path / "out.json"
    costs.write(file)
    arguments = ["size", "--costs", str(file), *SHORT, "--most", "2", "--json", str(out)]
    assert main([*arguments, "--p95", "0.0001"]) == 1
    assert json.loads(out.read_text())["outcome"] is None
    assert main([*arguments, "--price", "1"]) == 0
    assert json.loads(out.read_text())["outcome"]["figures"]["turns"] > 0
