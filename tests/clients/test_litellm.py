"""LiteLLM, which many tools use to reach a model: OpenAI's and Anthropic's API, streams and tools."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import CITY
from tests.server import RunningServer
from tests.streams.prescribed import NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own code gives rise to several

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PROVIDERS = {"openai": "/v1", "anthropic": ""}  # by its name in LiteLLM, the end of the base URL


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """LiteLLM. Its import takes three seconds, which each process of the suite would spend."""
    import litellm

    yield litellm
    # Nothing else closes the connections that it keeps for later requests.
    kept = litellm.in_memory_llm_clients_cache
    for client in kept.cache_dict.values():
        client.close()
    kept.flush_cache()  # other tests of this process may follow


def complete(litellm: Any, url: str, provider: str, model: str, messages: list[Any], **fields: Any) -> Any:
    return litellm.completion(
        model=f"{provider}/{model}",
        api_base=url + PROVIDERS[provider],
        api_key="none",
        messages=messages,
        **({"max_tokens": 200, "temperature": 0} | fields),
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_asks_the_builtin_model(litellm: Any, provider: str, server: RunningServer) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    whole = complete(litellm, server.url, provider, "builtin", messages)
    stream = complete(litellm, server.url, provider, "builtin", messages, stream=True)
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "Paris" in whole.choices[0].message.content
    assert joined == whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_calls_a_tool_and_sends_its_result(litellm: Any, provider: str, url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    first = complete(litellm, url, provider, NAME, messages, tools=[WEATHER]).choices[0]
    (call,) = first.message.tool_calls
    assert (first.finish_reason, first.message.content) == ("tool_calls", "One moment.")
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", CITY)
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees"}
    messages += [first.message.model_dump(), result]
    last = complete(litellm, url, provider, NAME, messages, tools=[WEATHER]).choices[0]
    assert (last.finish_reason, last.message.content) == ("stop", "It is sunny in Zürich 👍.")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_joins_a_streamed_call(litellm: Any, provider: str, url: str) -> None:
    messages = [{"role": "user", "content": "How is the weather?"}]
    chunks = list(complete(litellm, url, provider, NAME, messages, tools=[WEATHER], stream=True))
    built: Any = litellm.stream_chunk_builder(chunks, messages=messages)
    (call,) = built.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", CITY)


def test_litellm_knows_a_wrong_model_as_not_found(litellm: Any, url: str) -> None:
    with pytest.raises(litellm.exceptions.NotFoundError, match="tiny"):
        complete(litellm, url, "openai", "tinny", [{"role": "user", "content": "Hello"}])
