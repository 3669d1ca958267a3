"""LangChain's ChatOpenAI: streams, structured output and tools."""

import asyncio
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.clients.conftest import CITY
from tests.server import RunningServer
from tests.streams.prescribed import NAME

Method = Literal["json_schema", "function_calling"]


def weather(city: str) -> str:
    """Says how the weather is."""
    return "Sunny, 21 degrees"


class Answer(BaseModel):
    """An answer."""

    is_true: bool
    stars: int


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client to hand to LangChain, because nothing closes the connections of its own one."""
    with httpx.Client() as client:
        yield client


def model(url: str, http: httpx.Client | httpx.AsyncClient, name: str = NAME) -> ChatOpenAI:
    return ChatOpenAI(
        model=name,
        base_url=f"{url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_retries=0,
        http_client=http if isinstance(http, httpx.Client) else None,
        http_async_client=http if isinstance(http, httpx.AsyncClient) else None,
    )


def test_langchain_asks_the_builtin_model(server: RunningServer, http: httpx.Client) -> None:
    chat = model(server.url, http, "builtin")
    whole = chat.invoke("What is the capital of France?")
    joined = "".join(str(chunk.content) for chunk in chat.stream("What is the capital of France?"))
    assert "Paris" in joined
    assert joined == whole.content
    assert isinstance(whole, AIMessage) and whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0


def test_langchain_streams_without_threads(url: str) -> None:
    async def joined() -> str:
        async with httpx.AsyncClient() as http:
            return "".join([str(chunk.content) async for chunk in model(url, http).astream("Hello")])

    assert asyncio.run(joined()) == "Hi — and 日本語."


def test_langchain_calls_a_tool_and_sends_its_result(url: str, http: httpx.Client) -> None:
    chat = model(url, http).bind_tools([weather])
    question = HumanMessage("How is the weather?")
    first = chat.invoke([question])
    assert isinstance(first, AIMessage)
    (call,) = first.tool_calls
    assert (first.content, call["name"], call["args"]) == ("One moment.", "weather", CITY)
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    assert chat.invoke([question, first, result]).content == "It is sunny in Zürich 👍."


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_a_pydantic_object(method: Method, url: str, http: httpx.Client) -> None:
    """From a model with random weights, so that only the grammar can have made it valid."""
    structured = model(url, http).with_structured_output(Answer, method=method)
    assert isinstance(structured.invoke("Hello"), Answer)
