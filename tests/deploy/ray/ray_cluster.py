"""Runs replicas of Ray Serve on this machine, with a Ray of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # ships no types
import yaml  # type: ignore[import-untyped]  # ships no types

from tests.server import ROOT, free_port
from tests.waiting import LIMIT_S, wait_for

CONFIG = ROOT / "deploy/ray/serve.yaml"
_START_S = 2 * LIMIT_S  # for Ray, and a model in each replica, on two cores
_REPLICA = "ray::ServeReplica"  # the beginning of a replica's process title
_SAMPLE = 12  # conversations for each replica: enough for all replicas to be asked, nearly always
_HEAD = ("--head", "--block", "--num-cpus=16", "--object-store-memory=100000000", "--include-dashboard=false")
_OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_monitor_refresh_ms": "0",  # other programs of the machine shall not end the replicas
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deploy.ray.proxy:middleware",
}


class RayCluster:
    """A Ray with one node. The name of a replica is the id of its process. Its owner must call `stop`."""

    def __init__(self, folder: Path, settings: Mapping[str, str], drain_s: float) -> None:
        self._port = free_port()
        self._address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._drain_s = drain_s
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
        defaults = {
            "PYTHONPATH": str(ROOT),
            "LLM_FIND_LOCAL_MODELS": "false",
            "HF_HUB_CACHE": str(folder / "hub"),
        }
        self._environment = {**inherited, **_OF_RAY, **defaults, **settings}
        self._head: subprocess.Popen[bytes] | None = None
        self._count = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def replicas(self) -> Sequence[str]:
        return [str(process.pid) for process in self._processes() if _title(process).startswith(_REPLICA)]

    def start(self, count: int) -> None:
        """Starts Ray with so many replicas."""
        port = self._address.rpartition(":")[2]
        command = _program(
            "ray.scripts.scripts", "start", *_HEAD, f"--port={port}", f"--temp-dir={self._folder}"
        )
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._has_started, "Ray to start", _START_S)
        self._scale(count)

    def _scale(self, count: int) -> None:
        """Returns when there are so many replicas, of which each gets requests."""
        self._count = count
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["http_options"]["port"] = self._port
        (application,) = config["applications"]
        application["args"]["drain_s"] = self._drain_s
        application["deployments"][0]["autoscaling_config"] |= {"min_replicas": count, "max_replicas": count}
        file = self._folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        self._serve("run", f"--address={self._address}", "--non-blocking", str(file))
        wait_for(lambda: self._has_settled(count), f"{count} replicas", _START_S)

    def kill(self, replica: str) -> None:
        os.kill(int(replica), signal.SIGKILL)  # Ray starts another one

    def drain(self) -> None:
        self._scale(self._count - 1)

    def add(self) -> None:
        self._scale(self._count + 1)

    def stop(self) -> None:
        """Ends Ray and all its processes."""
        processes = self._processes()
        if self._head is not None:
            self._head.kill()
            self._head.wait(LIMIT_S)
        for process in processes:
            if process.is_running():
                process.kill()
        psutil.wait_procs(processes, timeout=LIMIT_S)

    @property
    def _log(self) -> Path:
        return self._folder / "ray.log"

    def _serve(self, *arguments: str) -> None:
        """Runs a command of Ray Serve to its end."""
        done = subprocess.run(
            _program("ray.serve.scripts", *arguments),
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _processes(self) -> list[psutil.Process]:
        if self._head is None or self._head.poll() is not None:
            return []
        found: list[psutil.Process] = psutil.Process(self._head.pid).children(recursive=True)
        return found

    def _has_started(self) -> bool:
        assert self._head is not None and self._head.poll() is None, self._log.read_text(encoding="utf-8")
        return "Ray runtime started" in self._log.read_text(encoding="utf-8")

    def _has_settled(self, count: int) -> bool:
        if len(self.replicas) != count:
            return False
        answers = [
            httpx.get(
                f"{self.url}/health", headers={"X-Session-Id": f"{number}"}, timeout=LIMIT_S, trust_env=False
            )
            for number in range(_SAMPLE * count)
        ]
        return len({answer.json().get("boot_id") for answer in answers}) == count


def _program(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"from {module} import cli; cli()", *arguments]


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


@contextmanager
def running_ray_cluster(
    settings: Mapping[str, str], count: int, drain_s: float = 20.0
) -> Iterator[RayCluster]:
    """Runs so many replicas with these settings, which name their database."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's own is too long for the paths of Ray's sockets
    cluster = RayCluster(folder, settings, drain_s)
    try:
        cluster.start(count)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
