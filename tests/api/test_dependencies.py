"""Handlers are given the owner that the check of the request found."""

from collections.abc import Callable

import httpx
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import Scope

from app.api.dependencies import OwnerDep
from app.api.middleware import Guard, HostCheck, KeyCheck
from app.core.api_keys import DEFAULT_OWNER
from tests.api.fakes import keys_of, serving
from tests.http_options import LOCAL


def ask_for_owner(
    check: Callable[[Scope], str | None], path: str = "/owner", **headers: str
) -> httpx.Response:
    async def owner_of_request(owner: OwnerDep) -> str:
        return owner

    app = FastAPI(middleware=[Middleware(Guard, check)])
    for route in ("/owner", "/health"):
        app.add_api_route(route, owner_of_request)
    with serving(app) as url:
        return httpx.get(f"{url}{path}", headers=headers, **LOCAL)


def test_owner_of_a_request_without_keys_is_the_default_one() -> None:
    assert ask_for_owner(HostCheck([], [])).json() == DEFAULT_OWNER


def test_owner_of_a_named_key_is_its_name() -> None:
    check = KeyCheck(keys_of(api_keys="alice:key-a,bob:key-b"))
    assert ask_for_owner(check, authorization="Bearer key-b").json() == "bob"


def test_owner_of_the_single_key_is_the_default_one() -> None:
    assert ask_for_owner(KeyCheck(keys_of(api_key="key")), authorization="Bearer key").json() == DEFAULT_OWNER


def test_open_path_has_no_owner() -> None:
    assert (
        ask_for_owner(KeyCheck(keys_of(api_key="key")), "/health", authorization="Bearer key").status_code
        == 500
    )
