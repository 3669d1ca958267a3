"""Proxies and certificates that cannot be used are named by their variable."""

import os
from pathlib import Path

import pytest

from app.core.errors import HubUnreachable
from app.models.hub.environment import refuse_unusable_environment


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "http_proxy"])
@pytest.mark.parametrize("value", ["socks://127.0.0.1:7890/", "ftp://proxy", "http://proxy:port"])
def test_proxy_that_cannot_be_used_is_named(variable: str, value: str) -> None:
    with pytest.raises(HubUnreachable, match=f"^{variable} "):
        refuse_unusable_environment({variable: value})


@pytest.mark.parametrize("value", ["http://127.0.0.1:3128", "127.0.0.1:3128", "https://a:secret@proxy:1", ""])
def test_proxy_that_can_be_used_passes(value: str) -> None:
    refuse_unusable_environment({"ALL_PROXY": value, "HTTPS_PROXY": value})


def test_error_shows_no_password() -> None:
    with pytest.raises(HubUnreachable) as caught:
        refuse_unusable_environment({"ALL_PROXY": "ftp://user:secret@proxy"})
    assert "secret" not in caught.value.message


def test_certificates_that_are_missing_or_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("none")
    os.mkfifo(tmp_path / "pipe.pem")
    reasons = {"missing": "no such file", "empty": "no certificates", "pipe": "not a regular file"}
    for name, reason in reasons.items():
        with pytest.raises(HubUnreachable, match=f"SSL_CERT_FILE is .*{name}.*{reason}"):
            refuse_unusable_environment({"SSL_CERT_FILE": str(tmp_path / f"{name}.pem")})
