"""Responses of a tiny model with random weights, whose chat template knows tools: real calls of tools."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from app.composition import build_services
from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.config import Settings
from app.main import create_app
from tests.api.fakes import serving
from tests.engine.tiny import configs, make_tokenizer
from tests.engine.tools.test_toolbox import SHOWN, WEATHER

WINDOW = 2_048
TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]
ROUNDS = 20


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, shared_fork_server: Path) -> Iterator[openai.OpenAI]:
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
    tokenizer.chat_template = SHOWN
    torch.manual_seed(0)
    config = configs(len(tokenizer))["llama"]
    config.max_position_embeddings = WINDOW
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sampling = SamplingDefaults(max_tokens=200)
    profile = ModelProfile("builtin", "Tiny", "", (Source(str(folder)),), WINDOW, 1, 1, sampling)
    settings = Settings(
        model_name="builtin", dtype="float32", threads=1, fork_server=shared_fork_server, _env_file=None
    )
    app = create_app(settings, lambda given: build_services(given, {"builtin": profile}))
    with (
        serving(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def ask(client: openai.OpenAI, **fields: Any) -> Any:  # Any: a response, or a stream of events
    given: dict[str, Any] = {"model": "builtin", "input": "Weather?", "tools": TOOLS, "temperature": 0}
    return client.responses.create(**given | fields)


def contents(response: Any) -> list[Any]:
    """All of a response but its ids and its use of the cache."""
    items = [item.model_dump(exclude={"id", "call_id"}) for item in response.output]
    return [*items, response.status, response.usage.input_tokens, response.usage.output_tokens]


def test_a_loop_of_real_calls_has_valid_arguments(client: openai.OpenAI) -> None:
    asked = ask(client, tool_choice="required", parallel_tool_calls=False)
    (call,) = asked.output
    assert call.type == "function_call" and call.name == "weather"
    jsonschema.validate(json.loads(call.arguments), WEATHER)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    told = ask(client, input=[output], previous_response_id=asked.id, max_output_tokens=5)
    assert told.usage.input_tokens > asked.usage.input_tokens
    history = [{"role": "user", "content": "Weather?"}, call.model_dump(exclude_none=True), output]
    unstored = ask(client, input=history, store=False, max_output_tokens=5)
    assert contents(unstored) == contents(told)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_stream_of_real_calls_is_the_whole_response_wherever_it_is_cut(
    client: openai.OpenAI, number: int
) -> None:
    draw = random.Random(number)
    fields = {
        "tool_choice": draw.choice(["auto", "required", {"type": "function", "name": "weather"}]),
        "parallel_tool_calls": draw.random() < 0.5,
        "max_output_tokens": draw.randint(1, 60),
        "store": draw.random() < 0.5,
    }
    whole = ask(client, **fields)
    events = list(ask(client, stream=True, **fields))
    assert contents(events[-1].response) == contents(whole)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    pieces = "".join(
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    )
    assert pieces == "".join(item.arguments for item in whole.output if item.type == "function_call")
