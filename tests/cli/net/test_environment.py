"""The proxy and the certificates from the environment."""

import asyncio
import json
import os
import ssl
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.cli.errors import ConfigError
from app.cli.net.address import address_of
from app.cli.net.client import ChatClient
from app.cli.net.environment import Proxy, certificates_for, proxy_for
from client_test import main
from tests.cli.client_process import piped
from tests.cli.stand_in.state import StandIn

REMOTE = address_of("http://192.0.2.1:8000")
ENCRYPTED = address_of("https://127.0.0.1:8443")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, Proxy("HTTP_PROXY", "http://proxy:3128")),
        ({"http_proxy": "proxy:3128"}, Proxy("http_proxy", "http://proxy:3128")),
        ({"http_proxy": "http://p", "ALL_PROXY": "socks://q"}, Proxy("http_proxy", "http://p")),
        ({"HTTPS_PROXY": "http://proxy", "HTTP_PROXY": ""}, None),
        ({"ALL_PROXY": "socks://127.0.0.1:7890/", "NO_PROXY": "192.0.2.1"}, None),
        ({"ALL_PROXY": "socks://127.0.0.1:7890/", "no_proxy": "*"}, None),
        ({"ALL_PROXY": "http://proxy", "NO_PROXY": "http://["}, Proxy("ALL_PROXY", "http://proxy")),
    ],
)
def test_proxy_is_the_first_that_applies(environ: dict[str, str], expected: Proxy | None) -> None:
    assert proxy_for(REMOTE, environ) == expected
    assert proxy_for(address_of("http://localhost:8000"), environ) is None


@pytest.mark.parametrize(
    "value", ["socks://127.0.0.1:7890/", "ftp://proxy", "http://[", "http://proxy:99999", "http://proxy:x"]
)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
def test_unusable_proxy_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable} is '{value[:4]}"):
        proxy_for(REMOTE, {variable: value})


def test_password_of_a_proxy_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        proxy_for(REMOTE, {"ALL_PROXY": "ftp://ann:secret@proxy"})
    assert "secret" not in caught.value.message


def test_client_ends_with_one_sentence_about_the_proxy() -> None:
    done = piped("", "--url", "http://192.0.2.1:8000", "-p", "hi", "--json", ALL_PROXY="socks://127.0.0.1:1/")
    expected = "ALL_PROXY is 'socks://127.0.0.1:1/', which is not the address of a proxy."
    assert json.loads(done.stdout)["error"]["message"] == expected
    assert done.stderr.splitlines()[0] == expected and done.returncode == 2


def test_checker_ends_with_one_sentence_about_the_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:7890/")
    assert main(["--url", "http://192.0.2.1:8000"]) == 2
    assert capsys.readouterr().out.startswith("ALL_PROXY is 'socks://127.0.0.1:7890/'")


def test_proxy_that_does_not_answer_is_named() -> None:
    done = piped("", "--url", "http://192.0.2.1:8000", "-p", "hi", HTTP_PROXY="http://ann:secret@127.0.0.1:1")
    assert "(through HTTP_PROXY, http://127.0.0.1:1: connection refused)" in done.stderr
    assert "NO_PROXY" in done.stderr and "secret" not in done.stderr and done.returncode == 3


def test_local_server_needs_no_proxy(url: str, standin: StandIn) -> None:
    assert piped("hello", "--url", url, ALL_PROXY="socks://127.0.0.1:7890/").returncode == 0


@pytest.mark.parametrize(
    ("variable", "content", "expected"),
    [
        ("SSL_CERT_FILE", None, "No such file"),
        ("SSL_CERT_FILE", "no certificate", "no certificate or crl found"),
        ("SSLKEYLOGFILE", None, "No such file"),
    ],
)
def test_unusable_certificate_file_names_its_variable(
    variable: str, content: str | None, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "file"
    if content is not None:
        file.parent.mkdir()
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"^{variable} is .*{expected}"):
        certificates_for(ENCRYPTED, {variable: str(file)})


def test_certificate_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="^SSL_CERT_FILE is .*it is not a regular file"):
        certificates_for(ENCRYPTED, {"SSL_CERT_FILE": str(tmp_path / "pipe")})


def test_connection_without_encryption_loads_no_certificates() -> None:
    assert certificates_for(REMOTE, {"SSL_CERT_FILE": "/nowhere"}) is False
    assert isinstance(certificates_for(ENCRYPTED, {}), ssl.SSLContext)


def test_client_reports_a_missing_certificate_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")

    async def ask() -> None:
        async with ChatClient("https://127.0.0.1:8443") as client:
            await client.health()

    with pytest.raises(ConfigError, match="^SSL_CERT_FILE is '/nowhere.pem'"):
        asyncio.run(ask())


def test_socks_proxy_is_used_if_its_package_is_installed() -> None:
    environ = {"ALL_PROXY": "socks5://127.0.0.1:7890"}
    if find_spec("socksio") is not None:
        assert proxy_for(REMOTE, environ) == Proxy("ALL_PROXY", "socks5://127.0.0.1:7890")
        return
    with pytest.raises(ConfigError, match="^ALL_PROXY names a SOCKS proxy") as caught:
        proxy_for(REMOTE, environ)
    assert "pip install 'httpx[socks]'" in str(caught.value.hint)
