"""The dashboard and the alerts name only figures that the server reports, and show something."""

import math
import subprocess
from pathlib import Path

import pytest

from app.composition import build_services
from app.core.config import Settings
from app.models.metrics.reporter import MetricsReporter
from tests.deploy.dashboard import ALERTS, exported_names, names_in, queries
from tests.deploy.prometheus import find_program, running_prometheus
from tests.models.metrics.exposition import Figures, figures_of
from tests.server import RunningServer
from tests.waiting import wait_for

PROMETHEUS, PROMTOOL = find_program("prometheus"), find_program("promtool")
WITHOUT = "Prometheus is not installed (Debian: apt-get install prometheus)"


def reported() -> Figures:
    metrics = build_services(Settings(_env_file=None)).metrics
    assert isinstance(metrics, MetricsReporter)
    return figures_of(metrics)


def test_every_name_is_reported() -> None:
    names = exported_names(reported())
    expressions = [*(query.expression for query in queries()), ALERTS.read_text(encoding="utf-8")]
    used = set[str]().union(*map(names_in, expressions))
    assert len(used) > 20
    assert used - names == set()


@pytest.mark.skipif(PROMTOOL is None, reason=WITHOUT)
def test_alerts_fire_when_they_should() -> None:
    assert PROMTOOL is not None
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [PROMTOOL, *command], cwd=ALERTS.parent, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMETHEUS is None, reason=WITHOUT)
def test_every_panel_shows_something_in_a_real_prometheus(server: RunningServer, tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    empty = list(queries())
    with running_prometheus(PROMETHEUS, tmp_path, server.url.removeprefix("http://")) as prometheus:

        def is_filled() -> bool:
            """Sends a request, because rates need movement, and asks again for the panels that were empty."""
            server.chat("What is the capital of France?", max_tokens=8)
            found = [query for query in empty if any(map(is_number, prometheus.query(query.expression)))]
            for query in found:
                empty.remove(query)
            return not empty

        def is_number(series: dict[str, list[str]]) -> bool:
            return math.isfinite(float(series["value"][1]))

        wait_for(is_filled, f"{empty} to show something")
