"""Runs Debian's Prometheus in a temporary folder."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.http_options import LOCAL
from tests.server import free_port
from tests.waiting import LIMIT_S, wait_for

_CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: llm
    static_configs: [{{targets: ["{target}"]}}]
"""


def find_program(name: str) -> str | None:
    """The path of a program that Debian may keep out of a user's PATH; None if it is not installed."""
    return shutil.which(name, path="/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin")


class Prometheus:
    """A server that reads the figures of one target every second."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, **LOCAL)

    def is_ready(self) -> bool:
        try:
            return self.http.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[Any]:  # Any: JSON documents
        """The series of the expression now. Fails if it is wrong."""
        reply = self.http.get("/api/v1/query", params={"query": expression})
        assert reply.status_code == 200, reply.text
        found: list[Any] = reply.json()["data"]["result"]
        return found


@contextmanager
def running_prometheus(program: str, folder: Path, target: str) -> Iterator[Prometheus]:
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(_CONFIG.format(target=target), encoding="utf-8")
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(prometheus.is_ready, "Prometheus to be ready")
        yield prometheus
    finally:
        prometheus.http.close()
        process.terminate()
        process.wait(LIMIT_S)
