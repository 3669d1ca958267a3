"""A server with scripted services, and a client of it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.fakes import Scripted, fake_app, serving


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def url(scripted: Scripted) -> Iterator[str]:
    with serving(fake_app(scripted, max_body_bytes=10_000)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as found:
        yield found
