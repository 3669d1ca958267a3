"""One server with scripted services, shared by all tests of this folder, and a client for it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.fakes import Scripted, fake_app, serving
from tests.http_options import LOCAL

MAX_BODY_BYTES = 10_000


@pytest.fixture(scope="package")
def served() -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted()
    with serving(fake_app(scripted, max_body_bytes=MAX_BODY_BYTES)) as url:
        yield scripted, url


@pytest.fixture
def scripted(served: tuple[Scripted, str]) -> Scripted:
    served[0].reset()
    return served[0]


@pytest.fixture
def url(served: tuple[Scripted, str]) -> str:
    return served[1]


@pytest.fixture
def client(scripted: Scripted, url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, **LOCAL) as found:
        yield found
