"""Replicas of Ray Serve with one database: nothing is lost when one is killed, drained or added under load.

`pytest -m cluster tests/deploy -s` runs the test, and shows its figures.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.deploy.cluster.cluster import add_one, drain_one, kill_one
from tests.deploy.cluster.load import hold_conversations
from tests.deploy.ray.ray_cluster import running_ray_cluster

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (pip install -r deploy/ray/requirements.txt)",
)


@pytest.mark.cluster
def test_nothing_is_lost_while_replicas_change(postgres_url: str, shared_fork_server: Path) -> None:
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_THREADS": "1",
        "LLM_DATABASE_URL": postgres_url,
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_ray_cluster(settings, 3) as cluster:
        report = hold_conversations(cluster, 200, [kill_one, add_one, drain_one])
    sys.stdout.write(f"{report.summary()}\n")
    assert report.cached_share >= 0.95, report.summary()
