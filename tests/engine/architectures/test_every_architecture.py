"""Every causal architecture that transformers knows is served rightly, or refused with a reason."""

import multiprocessing
import os
import tomllib
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

_EXPECTED = tomllib.loads((Path(__file__).parent / "expected.toml").read_text())
_TRIAL = "tests.engine.architectures.trial"
_LONGEST_S = 400  # on a busy machine


def _expected(architecture: str) -> str:
    """Returns how the outcome of the architecture's trial begins."""
    for kind in ("packed", "own_cache", "no_cache"):
        if architecture in _EXPECTED[kind]:
            return kind.replace("_", " ")
    if architecture in _EXPECTED["refused"]:
        return f"refused: {_EXPECTED['refused'][architecture]}"
    return "no tiny model: " if architecture in _EXPECTED["no_tiny_model"] else "in the table"


def _report(architecture: str, folder: Path, results: Connection) -> None:
    from tests.engine.architectures.trial import outcome  # in the server of forks alone, which loads it once

    results.send(outcome(architecture, folder))
    results.close()
    os._exit(0)  # processes of the engine may still run


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_architecture_is_served_as_the_table_says(architecture: str, tmp_path: Path) -> None:
    """In a process of its own, which may end by the limit of its time or memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_TRIAL])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(architecture, tmp_path, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(_LONGEST_S), "no outcome in time"
        found = receiver.recv()
    finally:
        receiver.close()
        process.kill()
        process.join(_LONGEST_S)
    expected = _expected(architecture)
    assert found[: len(expected)] == expected, found
