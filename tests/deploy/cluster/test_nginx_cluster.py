"""Servers behind nginx with one database: nothing is lost when one is killed, drained or added under load.

`pytest -m cluster tests/deploy -s` runs the large test, and shows its figures.
"""

import sys
from pathlib import Path

import pytest

from tests.deploy.cluster.cluster import add_one, drain_one, kill_one
from tests.deploy.cluster.load import hold_conversations
from tests.deploy.cluster.nginx_cluster import running_nginx_cluster
from tests.deploy.proxies import NGINX

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)")
SETTINGS = {"LLM_MODEL_NAME": "builtin", "LLM_THREADS": "1"}


@pytest.mark.cluster
def test_nothing_is_lost_while_replicas_change(
    tmp_path: Path, postgres_url: str, shared_fork_server: Path
) -> None:
    settings = SETTINGS | {"LLM_DATABASE_URL": postgres_url, "LLM_FORK_SERVER": str(shared_fork_server)}
    with running_nginx_cluster(tmp_path, settings) as cluster:
        report = hold_conversations(cluster, 200, [kill_one, add_one, drain_one])
    sys.stdout.write(f"{report.summary()}\n")
    assert report.cached_share >= 0.95, report.summary()


def test_nothing_is_lost_when_a_replica_is_killed(
    tmp_path: Path, postgres_url: str, shared_fork_server: Path
) -> None:
    settings = SETTINGS | {"LLM_DATABASE_URL": postgres_url, "LLM_FORK_SERVER": str(shared_fork_server)}
    with running_nginx_cluster(tmp_path, settings, 2) as cluster:
        report = hold_conversations(cluster, 12, [kill_one])
    assert report.cached_share >= 0.95, report.summary()
