"""Runs nginx and Caddy with our examples, in which ports, names and certificates are replaced."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # ships no types

from tests.deploy.prometheus import find_program
from tests.http_options import LOCAL
from tests.server import ROOT, free_port
from tests.waiting import LIMIT_S, wait_for

NGINX, CADDY = find_program("nginx"), find_program("caddy")
_UPSTREAM = "127.0.0.1:8000"
_NGINX_MAIN = """
{user}
daemon off;
pid {folder}/pid;
error_log {folder}/log;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/llm.conf;
}}
"""


@contextmanager
def running_nginx(example: str, folder: Path, upstream: str, certificate: Path) -> Iterator[str]:
    """The URL of nginx with this example in front of the server at `upstream`."""
    assert NGINX is not None
    port = free_port()
    text = (ROOT / "deploy/nginx" / example).read_text(encoding="utf-8").replace(_UPSTREAM, upstream)
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{port} ")
    text = re.sub(r"(ssl_certificate(?:_key)?) [^;]+;", rf"\1 {certificate};", text)
    (folder / "llm.conf").write_text(text, encoding="utf-8")
    with _running(_nginx_command(folder), folder, f"https://127.0.0.1:{port}"):
        yield f"https://127.0.0.1:{port}"


def _nginx_command(folder: Path) -> list[str]:
    """Returns the command that runs nginx with `llm.conf` in the folder, and writes the other files."""
    assert NGINX is not None
    included = (ROOT / "deploy/nginx/llm_proxy.inc").read_text(encoding="utf-8")
    (folder / "llm_proxy.inc").write_text(included, encoding="utf-8")
    main = _NGINX_MAIN.format(folder=folder, user="user root;" if os.geteuid() == 0 else "")
    (folder / "nginx.conf").write_text(main, encoding="utf-8")
    return [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]


@dataclass(frozen=True)
class Nginx:
    """A running nginx in front of several servers."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    template: str  # of the file with the upstream servers

    def use(self, upstreams: Sequence[str]) -> None:
        """Sends requests to these servers from now on. Those that are open end where they are."""
        _write(self.folder, self.template, upstreams)
        workers = set(_worker_pids(self.process))
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: set(_worker_pids(self.process)) - workers, "nginx to start another worker")


@contextmanager
def running_plain_nginx(example: str, folder: Path, upstreams: Sequence[str]) -> Iterator[Nginx]:
    """Runs nginx with this example, whose address has no TLS, in front of these servers."""
    assert NGINX is not None
    port = free_port()
    template = (ROOT / "deploy/nginx" / example).read_text(encoding="utf-8")
    template = template.replace("listen 8000;", f"listen 127.0.0.1:{port};")
    _write(folder, template, upstreams)
    url = f"http://127.0.0.1:{port}"
    with _running(_nginx_command(folder), folder, f"{url}/metrics") as process:  # which reaches no server
        yield Nginx(url, folder, process, template)


def _write(folder: Path, template: str, upstreams: Sequence[str]) -> None:
    """Writes the example with these servers in place of its own."""
    line, *_ = lines = re.findall(r"(?m)^ +server 127.*\n", template)
    servers = [re.sub(r"server \S+", f"server {upstream}", line) for upstream in upstreams]
    text = template.replace("".join(lines), "".join(servers))
    (folder / "llm.conf").write_text(text, encoding="utf-8")


def _worker_pids(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children()]


@contextmanager
def running_caddy(example: str, folder: Path, upstream: str, certificate: Path) -> Iterator[str]:
    """The URL of Caddy with this example in front of the server at `upstream`."""
    assert CADDY is not None
    port = free_port()
    text = (ROOT / "deploy/caddy" / example).read_text(encoding="utf-8").replace(_UPSTREAM, upstream)
    site = f"https://127.0.0.1:{port} {{\n\ttls {certificate} {certificate}\n"
    text = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + re.sub(
        r"(?m)^\S+\.example\.com \{\n", site, text
    )
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    command = [CADDY, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with _running(command, folder, f"https://127.0.0.1:{port}"):
        yield f"https://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"HOME": str(folder)}, stdout=output, stderr=output
        )

    def is_answering() -> bool:
        assert process.poll() is None, (folder / "output").read_text(encoding="utf-8")
        try:
            httpx.get(url, **LOCAL)
        except httpx.TransportError:
            return False
        return True

    try:
        wait_for(is_answering, "the proxy to answer")
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT_S)
