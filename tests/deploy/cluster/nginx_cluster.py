"""Runs several servers on one database behind nginx with the example deploy/nginx/llm_cluster.conf."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.deploy.proxies import Nginx, running_plain_nginx
from tests.server import RunningServer, running_server

COUNT = 3  # servers in the example
MODULE = ("app",)


class NginxCluster:
    """See Cluster. The name of a replica is its address."""

    def __init__(
        self, folder: Path, stack: ExitStack, settings: Mapping[str, str], command: Sequence[str] = MODULE
    ) -> None:
        self._folder = folder
        self._stack = stack
        self._settings = settings
        self._command = command
        self._servers: dict[str, RunningServer] = {}
        self._started = 0
        self._nginx: Nginx | None = None

    def start(self, count: int) -> None:
        for _ in range(count):
            self._start()
        self._nginx = self._stack.enter_context(
            running_plain_nginx("llm_cluster.conf", self._folder, self.replicas)
        )

    @property
    def url(self) -> str:
        assert self._nginx is not None, "the cluster has started"
        return self._nginx.url

    @property
    def replicas(self) -> Sequence[str]:
        return tuple(self._servers)

    def server(self, replica: str) -> RunningServer:
        return self._servers[replica]

    def kill(self, replica: str) -> None:
        self._servers[replica].stop(signal.SIGKILL)

    def drain(self) -> None:
        _, drained = self._servers.popitem()
        self._tell_nginx()
        drained.stop(signal.SIGTERM)

    def add(self) -> None:
        self._start()
        self._tell_nginx()

    def _start(self) -> None:
        self._started += 1
        folder = self._folder / f"server-{self._started}"
        folder.mkdir()
        running = running_server(folder, command=self._command, **self._settings)
        server = self._stack.enter_context(running)
        server.wait_until_ready()
        self._servers[server.url.removeprefix("http://")] = server

    def _tell_nginx(self) -> None:
        assert self._nginx is not None, "the cluster has started"
        self._nginx.use(self.replicas)


@contextmanager
def running_nginx_cluster(
    folder: Path, settings: Mapping[str, str], count: int = COUNT, command: Sequence[str] = MODULE
) -> Iterator[NginxCluster]:
    """Runs so many servers with these settings, which name their database, and nginx in front of them."""
    with ExitStack() as stack:
        cluster = NginxCluster(folder, stack, settings, command)
        cluster.start(count)
        yield cluster
