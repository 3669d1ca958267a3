"""Costs of an invented server, for tests that measure nothing."""

import pytest

from tests.capacity.server_costs import HostCosts, ServerCosts
from tests.capacity.step_times import Curve, StepTimes


@pytest.fixture(scope="session")
def costs() -> ServerCosts:
    return ServerCosts(
        model="invented",
        source="a test",
        step=StepTimes(Curve((1, 32, 512), (0.02, 0.08, 0.8)), decode_token_s=1e-6, prefill_pair_s=1e-8),
        bytes_per_token=1000,
        context_length=1024,
        weights_bytes=10_000_000,
        cores=4,
        threads=1,
        first_overhead_tokens=4,
        turn_overhead_tokens=8,
        host=HostCosts(
            request_s=0.002, finish_s=0.001, token_s=0.0001, prepare_s=0.001, prepare_token_s=1e-6
        ),
    )
