"""What is refused before Ray starts anything. Needs Ray, and no cluster."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT
from tests.waiting import LIMIT_S

NEEDS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (pip install -r deploy/ray/requirements.txt)",
)
SERVE = ("-c", "from ray.serve.scripts import cli; cli()")


def refuse(folder: Path, *arguments: str, **settings: str) -> str:
    """What `serve run deploy.ray:app` prints when it refuses to run."""
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(folder)} | settings
    refused = subprocess.run(
        [sys.executable, *SERVE, "run", "deploy.ray:app", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert refused.returncode == 1
    return refused.stderr


@NEEDS_RAY
@pytest.mark.parametrize("settings", [{}, {"LLM_DATABASE_URL": "sqlite:///conversations.db"}])
def test_several_replicas_without_postgresql_are_refused_with_one_sentence(
    settings: dict[str, str], tmp_path: Path
) -> None:
    printed = refuse(tmp_path, "max_replicas=2", **settings)
    assert "Wrong settings. LLM_DATABASE_URL: several replicas need a PostgreSQL" in printed
    assert "Traceback" not in printed
