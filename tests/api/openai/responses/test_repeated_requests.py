"""Requests for a response that are sent twice, with the same Idempotency-Key."""

from typing import Any

import openai
import pytest

from tests.api.openai.responses.conftest import GatedBackend
from tests.api.openai.responses.test_responses import ask


def test_the_same_key_gives_the_same_response(client: openai.OpenAI, backend: GatedBackend) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (ask(client, extra_headers=headers) for _ in range(2))
    assert first.model_dump() == second.model_dump()
    assert len(backend.requests) == 1


@pytest.mark.parametrize("changed", [{"metadata": {"a": "c"}}, {"user": "someone"}, {"asked": "bye"}])
def test_a_key_with_another_request_is_refused(client: openai.OpenAI, changed: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "-".join(changed)}
    fields: dict[str, Any] = {"metadata": {"a": "b"}, "extra_headers": headers}
    first = ask(client, **fields)
    with pytest.raises(openai.ConflictError) as refused:
        ask(client, **fields | changed)
    assert refused.value.code == "idempotency_key_reused"
    assert ask(client, **fields).model_dump() == first.model_dump()


def test_a_key_of_another_api_is_refused(client: openai.OpenAI, url: str) -> None:
    headers = {"Idempotency-Key": "of-the-native-api"}
    native = f"{url.removesuffix('/v1')}/api/v1/chat"
    asked = {"messages": [{"role": "user", "content": "hi"}], "system_prompt": "", "truncation": "disabled"}
    body = asked | {"model_name": "stand-in"}
    client.post(native, cast_to=object, body=body, options={"headers": headers})
    with pytest.raises(openai.ConflictError):
        ask(client, extra_headers=headers)
