"""Reading the figures of a GPU run."""

import json
from pathlib import Path

import pytest

from tests.capacity.gpu_figures import check_rates, from_gpu_run
from tests.capacity.server_costs import HostCosts
from tests.capacity.step_times import StepShape

FIGURES = {
    "1 sequences, decoding, tok/s": 500.0,
    "8 sequences, decoding, tok/s": 2000.0,
    "64 sequences, decoding, tok/s": 8000.0,
    "1 sequences, with prefill, tok/s": 470.0,
    "8 sequences, with prefill, tok/s": 1500.0,
    "64 sequences, with prefill, tok/s": 6000.0,
    "1 sequence after 4000 tokens, decoding, tok/s": 250.0,
    "prefill of 512 tokens, ms": 15.0,
    "prefill of 4000 tokens, ms": 40.0,
}
PROFILED = {"1 sequences: kernels of a step, ms": 1.0, "64 sequences: kernels of a step, ms": 2.0}


def test_costs_repeat_the_figures_of_the_run(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"llama3-1b": {"figures": FIGURES}, "profile": {"figures": PROFILED}}))
    costs = from_gpu_run(file, "llama3-1b", "a card", HostCosts(request_s=0.004))
    for count, seconds in ((1, 0.002), (8, 0.004), (64, 0.008)):
        shape = StepShape(count, 0, count, 192 * count, longest=192)
        assert costs.step.seconds(shape) == pytest.approx(seconds)
    far = StepShape(1, 0, 1, 4064, longest=4064)
    assert costs.step.seconds(far) == pytest.approx(0.004)
    assert costs.step.seconds(StepShape(0, 512, 1)) == pytest.approx(0.015)
    assert 2 * costs.step.seconds(StepShape(0, 2000, 1)) == pytest.approx(0.040)
    assert costs.bytes_per_token == 32_768
    assert costs.weights_bytes == pytest.approx(2.47e9, rel=0.01)
    assert costs.host.request_s == 0.004
    rates = check_rates(file, costs)
    assert [(rate.sequences, rate.measured) for rate in rates] == [(1, 470), (8, 1500), (64, 6000)]
    assert rates[0].predicted == pytest.approx(470, rel=0.02)
    assert all(rates[0].predicted < rate.predicted < 8000 for rate in rates[1:])
