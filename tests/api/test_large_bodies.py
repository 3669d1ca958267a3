"""Large bodies are validated outside the event loop, and small ones on it. The answers are the same."""

import threading
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import AfterValidator, ConfigDict

from app.api.body import BodyGuard, ParsedRoute
from app.api.errors import install_error_handlers
from app.models.schemas.wire import RequestModel
from tests.http_options import LOCAL
from tests.loopback import on_loopback

LARGE = 100_000  # characters

router = APIRouter(route_class=ParsedRoute)


def with_thread(text: str) -> str:
    if text.startswith("bad"):
        raise ValueError("is bad")
    return threading.current_thread().name


class Checked(RequestModel):
    model_config = ConfigDict(defer_build=False)  # there is no start-up here that would build it

    text: Annotated[str, AfterValidator(with_thread)]


@router.post("/")
async def threads(body: Checked) -> list[str]:
    """The names of the thread that validated the body, and of the one that runs the event loop."""
    return [body.text, threading.current_thread().name]


def post(text: str) -> httpx.Response:
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(router)
    with on_loopback(BodyGuard(app, max_bytes=2 * LARGE)) as url:
        return httpx.post(url, json={"text": text}, **LOCAL)


@pytest.mark.parametrize(("length", "is_on_the_loop"), [(10, True), (LARGE, False)])
def test_only_a_large_body_is_validated_in_another_thread(length: int, is_on_the_loop: bool) -> None:
    validated_in, loop = post("a" * length).json()
    assert (validated_in == loop) is is_on_the_loop


def test_large_body_is_refused_in_the_words_of_a_small_one() -> None:
    small, large = post("bad"), post("bad" + "a" * LARGE)
    assert small.status_code == large.status_code == 422
    assert small.json() == large.json()
    assert "is bad" in small.json()["error"]["message"]
