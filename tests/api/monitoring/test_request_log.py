"""The log line of each request, as text and as JSON."""

import io
import json
import logging
from collections.abc import Iterator

import httpx
import pytest

from app.core.telemetry.logging import JsonFormatter, LineFormatter
from tests.api.fakes import Scripted, fake_app, serving
from tests.http_options import LOCAL
from tests.waiting import wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What the access log writes with the formatter of the test's parameter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param())
    access = logging.getLogger("app.access")
    level = access.level
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    yield stream
    access.removeHandler(handler)
    access.setLevel(level)


@pytest.mark.parametrize("written", [LineFormatter], indirect=True)
def test_text_line_has_the_id_of_the_caller_and_the_status(
    client: httpx.Client, written: io.StringIO
) -> None:
    client.get("/api/v1/chat/models", headers={"x-request-id": "mine-1"})
    wait_for(lambda: "\n" in written.getvalue(), "the line")
    assert " INFO app.access [mine-1] GET /api/v1/chat/models 200 " in written.getvalue()


@pytest.mark.parametrize("written", [LineFormatter], indirect=True)
def test_refused_request_does_not_reveal_the_conversation(written: io.StringIO) -> None:
    secret = "conv_61945969cb4a3579ba74aaf54ee659d6"
    with serving(fake_app(Scripted(), api_key="key")) as url:
        assert httpx.get(f"{url}/api/v1/chat/conversation/{secret}", **LOCAL).status_code == 401
        wait_for(lambda: " 401 " in written.getvalue(), "the line")
    assert "GET /api/v1/chat/conversation/conv_... 401 " in written.getvalue()


@pytest.mark.parametrize(
    "key", ["sk-abc123", "sk-proj-A_b-c", "hf_AbCdEf", "a-long-random-key-of-this-server"]
)
@pytest.mark.parametrize("written", [LineFormatter], indirect=True)
def test_key_in_a_path_is_not_logged(written: io.StringIO, key: str) -> None:
    with serving(fake_app(Scripted())) as url:
        assert httpx.get(f"{url}/v1/{key}/models", **LOCAL).status_code == 404
        wait_for(lambda: " 404 " in written.getvalue(), "the line")
    assert key not in written.getvalue()
    assert "GET /v1/.../models 404 " in written.getvalue()


@pytest.mark.parametrize("written", [LineFormatter], indirect=True)
def test_wrong_key_is_logged_also_where_programs_ask_all_the_time(written: io.StringIO) -> None:
    with serving(fake_app(Scripted(), api_key="key")) as url:
        assert httpx.get(f"{url}/api/v1/chat/turns", **LOCAL).status_code == 401
        wait_for(lambda: " 401 " in written.getvalue(), "the line")
    assert "GET /api/v1/chat/turns 401 " in written.getvalue()


@pytest.mark.parametrize("path", ["a" * 60_000, "_" * 60_000, "a_0123456789" * 5_000, f"conv_{'0' * 60_000}"])
@pytest.mark.parametrize("written", [LineFormatter], indirect=True)
def test_long_path_has_a_short_line(client: httpx.Client, written: io.StringIO, path: str) -> None:
    assert client.get(f"/{path}").status_code == 404
    wait_for(lambda: "\n" in written.getvalue(), "the line")
    assert len(written.getvalue()) < 400


@pytest.mark.parametrize("written", [JsonFormatter], indirect=True)
def test_json_line_has_route_status_time_and_trace(client: httpx.Client, written: io.StringIO) -> None:
    headers = {"x-request-id": "mine-2", "traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}
    client.get("/api/v1/chat/conversation/conv_1", headers=headers)
    wait_for(lambda: "\n" in written.getvalue(), "the line")
    line = json.loads(written.getvalue())
    assert line["request_id"] == "mine-2" and line["trace_id"] == TRACE
    assert line["route"] == "/api/v1/chat/conversation/{conversation_id}"
    assert (line["method"], line["status"], line["level"]) == ("GET", 200, "INFO")
    assert line["duration_ms"] >= 0 and "conv_1" not in written.getvalue()
