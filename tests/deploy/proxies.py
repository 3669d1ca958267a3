"""Runs nginx and Caddy with our examples, in which ports, names and certificates are replaced."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deploy.prometheus import find_program
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
    included = (ROOT / "deploy/nginx/llm_proxy.inc").read_text(encoding="utf-8")
    (folder / "llm_proxy.inc").write_text(included, encoding="utf-8")
    main = _NGINX_MAIN.format(folder=folder, user="user root;" if os.geteuid() == 0 else "")
    (folder / "nginx.conf").write_text(main, encoding="utf-8")
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]
    with _running(command, folder, f"https://127.0.0.1:{port}") as url:
        yield url


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
    with _running(command, folder, f"https://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def _running(command: list[str], folder: Path, url: str) -> Iterator[str]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"HOME": str(folder)}, stdout=output, stderr=output
        )

    def is_answering() -> bool:
        assert process.poll() is None, (folder / "output").read_text(encoding="utf-8")
        try:
            httpx.get(url, verify=False, trust_env=False)
        except httpx.TransportError:
            return False
        return True

    try:
        wait_for(is_answering, "the proxy to answer")
        yield url
    finally:
        process.terminate()
        process.wait(LIMIT_S)
