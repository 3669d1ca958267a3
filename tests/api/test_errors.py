"""Status codes, and the one shape of every error body."""

import logging

import httpx
import pytest

from app.api.errors import STATUS, error_response, status_of
from app.core import errors
from app.core.errors import DomainError

RETRIED_BY_CLIENTS = {408, 409, 429, 503, 504}


def subclasses(cls: type[DomainError]) -> list[type[DomainError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in subclasses(child))]


@pytest.mark.parametrize("cls", subclasses(DomainError))
def test_every_domain_error_has_a_status(cls: type[DomainError]) -> None:
    status = status_of(cls("why"))
    assert 400 <= status < 600
    assert (status == 500) == (cls in (DomainError, errors.InternalError))


def test_only_internal_errors_fall_through_to_the_root() -> None:
    assert all(set(cls.__mro__) & (set(STATUS) - {DomainError}) for cls in subclasses(DomainError)[1:])


def test_status_is_that_of_the_nearest_ancestor() -> None:
    assert status_of(errors.ContextOverflow("long")) == 400
    assert status_of(errors.ModelGated("gated")) == 503


def test_body_omits_absent_fields() -> None:
    scope = {"type": "http", "path": "/api/v1/chat", "headers": []}
    response = error_response(errors.ModelGated("gated")).for_request(scope)
    assert response.body == b'{"error":{"code":"model_gated","message":"gated"}}'


def test_queue_full_always_says_when_to_retry() -> None:
    assert error_response(errors.QueueFull("full")).headers["retry-after"] == "1"
    assert error_response(errors.QueueFull("full", retry_after=9)).headers["retry-after"] == "9"


def test_missing_key_is_answered_with_the_scheme() -> None:
    assert error_response(errors.NotAuthenticated("no key")).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "send message or messages, one of them"),
        ({"message": "hi", "temperature": 9}, "temperature: Input should be less than or equal to 2"),
        ({"message": "hi", "tempratur": 1}, "tempratur: unknown field"),
        ({"message": " "}, "message: is empty"),
        (
            {"message": "hi", "stop": ["", ""]},
            "stop.0: String should have at least 1 character; stop.1: String should",
        ),
        ({"message": "hi", "stop": ""}, "stop: String should have at least 1 character"),
        ({"message": "hi", "stop": 5}, "stop: Input should be a valid string"),
        ({"message": "hi", "max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"message": "hi", "top_k": "5"}, "top_k: Input should be a valid integer"),
        ({"message": "hi", "temperature": "0.5"}, "temperature: Input should be a valid number"),
        ({"message": "hi", "temperature": False}, "temperature: Input should be a valid number"),
        ({"message": "hi", "stream": "yes"}, "stream: Input should be a valid boolean"),
        (
            {"message": "hi", "max_tokens": 1, "max_length": 1},
            "max_tokens and max_length are the same field; send only one of them",
        ),
        ({"message": "hi", "top_k": 10**400}, "top_k: "),
        ({"message": "hi", "top_p": 10**400}, "top_p: "),
    ],
)
def test_validation_names_the_field_and_the_cause(
    client: httpx.Client, body: dict[str, object], said: str
) -> None:
    reply = client.post("/api/v1/chat", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "validation_error"
    assert reply.json()["error"]["message"].startswith(said)


@pytest.mark.parametrize("contradiction", [(True, 0), (False, 0.7)])
def test_contradiction_of_do_sample_and_temperature_names_both(
    client: httpx.Client, contradiction: tuple[bool, float]
) -> None:
    do_sample, temperature = contradiction
    body = {"prompt": "hi", "do_sample": do_sample, "temperature": temperature}
    reply = client.post("/api/v1/generate", json=body)
    assert reply.status_code == 422
    assert "do_sample" in reply.json()["error"]["message"]
    assert "temperature" in reply.json()["error"]["message"]


def test_integers_are_accepted_by_float_fields(client: httpx.Client) -> None:
    body = {"prompt": "hi", "temperature": 0, "top_p": 1, "do_sample": False}
    assert client.post("/api/v1/generate", json=body).status_code == 200


def test_validation_never_echoes_the_input(client: httpx.Client) -> None:
    reply = client.post(
        "/api/v1/chat", json={"message": {"password": "hunter2"}, "seed": "hunter2", "stop": ["", 1]}
    )
    assert reply.status_code == 422
    assert "hunter2" not in reply.text


def test_validation_lists_the_first_problems_of_many(client: httpx.Client) -> None:
    reply = client.post("/api/v1/chat", json={"message": "hi"} | {f"x{i}": 1 for i in range(100)})
    assert reply.json()["error"]["message"].endswith("; and 95 more")


def test_validation_shortens_a_long_field_name(client: httpx.Client) -> None:
    reply = client.post("/api/v1/chat", json={"message": "hi", "\n" + "x" * 5000: 1})
    assert len(reply.json()["error"]["message"]) < 150
    assert "\n" not in reply.json()["error"]["message"]


def test_unknown_route(client: httpx.Client) -> None:
    reply = client.get("/api/v1/nothing")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_wrong_method_is_answered_with_the_right_one(client: httpx.Client) -> None:
    reply = client.get("/api/v1/chat")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_bug_is_logged_once_and_its_details_are_not_sent(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    reply = client.post("/api/v1/chat", json={"message": "bug"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in reply.text and "Zero" not in reply.text
    assert reply.headers["x-request-id"] in reply.json()["error"]["hint"]
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info is not None for record in failures] == [True]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/chat/conversation/conv_1", "HEAD, DELETE, GET, PATCH"),
        ("GET", "/api/v1/chat", "POST"),
        ("HEAD", "/api/v1/chat", "POST"),
        ("DELETE", "/health", "HEAD, GET"),
        ("POST", "/", "HEAD, GET"),
        ("POST", "/docs", "HEAD, GET"),
    ],
)
def test_wrong_method_is_told_every_method_of_the_path(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    reply = client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
