"""Measuring a small generated model: its engine in this process, and its server."""

import json
from pathlib import Path

import pytest

from tests.capacity.__main__ import main
from tests.capacity.engine_steps import (
    Case,
    fit_without_outliers,
    kv_bytes_per_token,
    measure_prompts,
    measure_steps,
)
from tests.capacity.measure import ServedModel
from tests.capacity.prompts import PromptText
from tests.capacity.recording_engine import recording_engine
from tests.capacity.server_costs import ServerCosts
from tests.capacity.step_times import StepSample, StepShape

CASES = (Case(1, 16, 4), Case(3, 40, 60), Case(1, 100, 2))
HEADS, HEAD, LAYERS = 4, 32, 2  # of the small gpt2


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return ServedModel.prepare("gpt2", tmp_path_factory.mktemp("cache"), threads=1, is_small=True)


def test_measured_steps_are_those_of_the_cases(served: ServedModel) -> None:
    text = PromptText(served.model.folder)
    with recording_engine(served.spec) as recording:
        numbers = 2 * LAYERS * HEADS * HEAD  # of a token's keys and values
        assert kv_bytes_per_token(recording, text) in (2 * numbers, 4 * numbers)  # 16 or 32 bits
        prompts = measure_prompts(recording, text)
        samples = measure_steps(recording, text, CASES, rounds=1)
    assert prompts.prepare_s > 0 and prompts.turn_overhead_tokens > 0
    assert {sample.shape.decodes for sample in samples} >= {1, 3}
    assert max(sample.shape.prefill_rows for sample in samples) >= 100
    times, _ = fit_without_outliers(samples)
    assert all(times.seconds(sample.shape) > 0 for sample in samples)


def test_fit_keeps_the_only_samples_of_a_number_of_rows_however_disturbed() -> None:
    decode, prefill = StepShape(decodes=1), StepShape(prefill_rows=120)
    samples = [StepSample(decode, 0.001 + number * 1e-5) for number in range(30)]
    samples += [StepSample(decode, 0.1), StepSample(prefill, 0.02), StepSample(prefill, 0.2)]
    times, _ = fit_without_outliers(samples)
    assert times.rows.rows == (1, 128)
    assert times.rows.at(1) < 0.01 < times.rows.at(128)


@pytest.mark.slow
def test_check_measures_and_predicts_the_same_turns(
    served: ServedModel, costs: ServerCosts, tmp_path: Path
) -> None:
    file, out = tmp_path / "costs.json", tmp_path / "out.json"
    costs.write(file)
    where = ("--cache", str(served.cache), "--small", "--costs", str(file), "--json", str(out))
    load = ("--conversations", "2", "--duration", "3", "--think", "0.2", "--reply", "5")
    assert main(["check", *where, *load]) in (0, 1)
    found = json.loads(out.read_text())["2"]
    assert found["measured"]["turns"] > 0 and found["predicted"]["turns"] > 0
    turns = [record for record in found["records"] if record["user"] == 0][:2]
    assert all(turn["began_s"] < turn["first_token_s"] <= turn["ended_s"] for turn in turns)
    assert turns[1]["cached_tokens"] > 0
