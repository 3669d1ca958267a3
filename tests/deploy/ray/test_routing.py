"""What the proxies tell Ray's router about a request, and how it ranks the replicas."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.datastructures import Headers

from deploy.ray.routing import Routing, by_model, routing_of

DIGITS = "0123456789abcdef" * 2
CONVERSATION = f"conv_{DIGITS}"
OTHER = f"conv_{'f' * 32}"


def route(path: str = "/api/v1/chat", *sessions: str, **fields: Any) -> Routing:
    headers = Headers(raw=[(b"x-session-id", session.encode()) for session in sessions])
    return routing_of(headers, path, json.dumps(fields).encode() if fields else b"")


@pytest.mark.parametrize(
    "session", [CONVERSATION, "01234567-89AB-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdef"]
)
def test_each_spelling_of_a_conversation_in_the_header_is_the_same_session(session: str) -> None:
    assert route("/api/v1/chat", session, conversation_id=OTHER).session == CONVERSATION


def test_header_of_another_form_is_the_session_as_it_is() -> None:
    assert route("/api/v1/chat", "alice").session == "alice"


@pytest.mark.parametrize(
    "path",
    [
        f"/api/v1/chat/conversation/{CONVERSATION}/regenerate",
        f"/v1/conversations/{CONVERSATION}/items",
        f"/v1/responses/resp_{DIGITS}{'f' * 32}",
    ],
)
def test_conversation_in_the_path_is_the_session(path: str) -> None:
    assert route(path, conversation_id=OTHER).session == CONVERSATION


@pytest.mark.parametrize(
    "fields",
    [
        {"conversation_id": CONVERSATION},
        {"conversation": CONVERSATION},
        {"conversation": {"id": CONVERSATION}},
        {"previous_response_id": f"resp_{DIGITS}{'f' * 32}"},
    ],
)
def test_conversation_in_the_body_is_the_session(fields: dict[str, Any]) -> None:
    assert route(**fields).session == CONVERSATION


@pytest.mark.parametrize("sessions", [(), ("",), (CONVERSATION, OTHER)])
def test_request_of_no_conversation_gets_a_new_one(sessions: tuple[str, ...]) -> None:
    first, second = route("/v1/responses", *sessions).session, route("/v1/responses", *sessions).session
    assert re.fullmatch("conv_[0-9a-f]{32}", first) and first != second


@pytest.mark.parametrize(
    ("fields", "model"),
    [({"model": "gpt2"}, "gpt2"), ({"model_name": "gpt2"}, "gpt2"), ({"message": "Hello"}, None)],
)
def test_model_is_that_of_the_body(fields: dict[str, Any], model: str | None) -> None:
    assert route(**fields).model == model


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 3}', b'{"model": "gpt2", "conversation": 3}'])
def test_body_that_the_application_will_refuse_names_nothing(body: bytes) -> None:
    assert routing_of(Headers(raw=[]), "/v1/responses", body).model is None


@dataclass
class StandInReplica:
    routing_stats: Mapping[str, Any] = field(default_factory=dict)  # Any: as Ray's


def test_replicas_with_the_model_come_first_in_their_order() -> None:
    unknown, other, first, second = (
        StandInReplica(),
        StandInReplica({"models": ["llama3-1b"]}),
        StandInReplica({"models": ["builtin", "gpt2"]}),
        StandInReplica({"models": ["gpt2"]}),
    )
    ranks = [[unknown], [first], [other], [second]]
    assert by_model(ranks, "gpt2") == [[first], [second], [unknown], [other]]
