"""What is sent to each kind of remote engine, and how its replies and errors are read.

The shapes are those of the programs' sources; those of llama-server and `transformers serve` were recorded.
"""

import asyncio

import pytest

from app.core.errors import ContextOverflow, InvalidRequest, ModelUnavailable
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage, Grammar, ModelInfo, SamplingParams, Tool, ToolUse
from tests.engine.remote.asking import HI, ask, backend_of, refusal
from tests.engine.remote.standin import Json, StandInUpstream, piece, running_upstream

TRANSFORMERS: Json = {"/openapi.json": {"paths": {"/v1/responses": {}, "/load_model": {}}}}
TGI = {"/info": {"model_id": "big", "max_input_tokens": 4095, "max_total_tokens": 4096}}
TOOLS = (Tool("weather"), Tool("time"))


def info_of(upstream: StandInUpstream) -> ModelInfo:
    async def run() -> ModelInfo:
        async with backend_of(upstream) as backend:
            return backend.info

    with running_upstream(upstream):
        return asyncio.run(run())


@pytest.mark.parametrize(
    ("upstream", "kind"),
    [
        (StandInUpstream("vllm"), "vLLM"),
        (StandInUpstream("llamacpp"), "llama-server"),
        (StandInUpstream("bartowski", answers={"/api/version": {"version": "0.13.5"}}), "Ollama"),
        (StandInUpstream("big", answers=TGI), "TGI"),
        (StandInUpstream("HuggingFaceTB", answers=TRANSFORMERS), "transformers serve"),
        (StandInUpstream("openai"), "OpenAI's API"),
        (StandInUpstream("openai", answers={"/info": ["odd"], "/api/version": "odd"}), "OpenAI's API"),
    ],
)
def test_kind_is_found_out_by_asking(upstream: StandInUpstream, kind: str) -> None:
    assert info_of(upstream).architecture == f"remote engine ({kind})"


def test_window_is_known_where_the_engine_tells() -> None:
    assert info_of(StandInUpstream("big", answers=TGI)).context_length == 4096
    assert info_of(StandInUpstream("llamacpp", card={"meta": {"n_ctx": 1024}})).context_length == 1024
    assert info_of(StandInUpstream("vllm", card={"max_model_len": "odd"})).context_length == 1000


def test_model_may_be_named_by_an_alias_or_without_its_tag() -> None:
    assert info_of(StandInUpstream("llamacpp", model="/models/big.gguf", card={"aliases": ["big"]}))
    assert info_of(StandInUpstream("library", model="big:latest"))


@pytest.mark.parametrize("listing", [({"object": "list", "data": []}, 200), ({"detail": "no cache"}, 500)])
def test_transformers_serves_models_that_it_does_not_list(listing: tuple[Json, int]) -> None:
    upstream = StandInUpstream(answers={**TRANSFORMERS, "/v1/models": listing})
    assert "transformers" in info_of(upstream).architecture
    with pytest.raises(ModelUnavailable):
        info_of(StandInUpstream(answers={"/v1/models": listing}))


def test_llama_server_without_tools_in_its_template_refuses_them() -> None:
    props = {"chat_template_caps": {"supports_tools": False}, "chat_template": "{{ messages }}"}
    upstream = StandInUpstream("llamacpp", answers={"/props": props})
    for model_input, what in (
        (ModelInput(HI.messages, tool_use=ToolUse(TOOLS)), "tools"),
        (ModelInput(HI.messages, think=True), "think"),
    ):
        error = refusal(upstream, model_input)
        assert isinstance(error, InvalidRequest)
        assert error.message.startswith(what)
    assert upstream.bodies == []


def test_a_wish_for_thinking_is_no_demand_of_another_server_of_this_kind() -> None:
    wish = ModelInput(HI.messages, wants_thinking=True)
    assert "chat_template_kwargs" not in (body := ask(StandInUpstream("llm-serving"), wish)[1])
    assert body["reasoning_effort"] == "medium"
    demand = ModelInput(HI.messages, think=True)
    assert ask(StandInUpstream("llm-serving"), demand)[1]["chat_template_kwargs"] == {"enable_thinking": True}


def test_thinking_is_switched_as_the_engine_does() -> None:
    def body_of(owner: str, think: bool) -> Json:
        return ask(StandInUpstream(owner), ModelInput(HI.messages, think=think))[1]

    for owner in ("vllm", "sglang", "llamacpp"):
        assert body_of(owner, False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert body_of("library", False)["reasoning_effort"] == "none"
    assert "reasoning_effort" not in body_of("library", True)


def test_named_tool_is_the_only_one_where_the_engine_takes_no_names() -> None:
    named = ModelInput(HI.messages, tool_use=ToolUse(TOOLS, "required", "time"))
    _, body = ask(StandInUpstream("llamacpp"), named)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["time"]
    assert body["tool_choice"] == "required"
    _, body = ask(StandInUpstream("vllm"), named)
    assert len(body["tools"]) == 2
    assert body["tool_choice"] == {"type": "function", "function": {"name": "time"}}


def test_tools_that_must_not_be_called_stay_here_where_the_engine_knows_no_choice() -> None:
    _, body = ask(StandInUpstream("library"), ModelInput(HI.messages, tool_use=ToolUse(TOOLS, "none")))
    assert not {"tools", "tool_choice"} & body.keys()


@pytest.mark.parametrize("owner", ["vllm", "llamacpp"])
def test_continued_message_is_not_repeated(owner: str) -> None:
    history = (*(HI.messages or ()), ChatMessage("assistant", "Hel"))
    _, body = ask(StandInUpstream(owner), ModelInput(history, continue_final_message=True))
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_one_of_several_choices_is_a_grammar_for_llama_server() -> None:
    _, body = ask(
        StandInUpstream("llamacpp"),
        ModelInput(HI.messages, grammar=Grammar("choice", '["yes", "a \\"b", "\\ud83d\\ude00"]')),
    )
    assert body["grammar"] == 'root ::= "yes" | "a \\"b" | "😀"'


def test_forms_of_replies_have_the_names_of_tgi() -> None:
    upstream = StandInUpstream("big", answers=TGI)
    _, body = ask(upstream, ModelInput(HI.messages, grammar=Grammar("json_schema", '{"type": "object"}')))
    assert body["response_format"] == {"type": "json", "value": {"type": "object"}}
    _, body = ask(upstream, ModelInput(HI.messages, grammar=Grammar("regex", "a+")))
    assert body["response_format"] == {"type": "regex", "value": "a+"}


def entry(token: str) -> Json:
    return {"token": token, "logprob": -1.0, "bytes": None, "top_logprobs": []}


def test_llama_server_reports_the_probability_of_a_token_alone() -> None:
    chunk = piece(content="é")
    chunk["choices"][0]["logprobs"] = {"content": [{**entry("é"), "top_logprobs": [entry("e")]}]}
    upstream = StandInUpstream("llamacpp", chunks=[chunk, piece("stop")])
    reply, body = ask(upstream, sampling=SamplingParams(top_logprobs=0))
    assert body["top_logprobs"] == 1
    (token,) = reply.deltas[0].logprobs
    assert (token.logprob, token.top) == (-1.0, ())


def test_log_probabilities_of_completions_come_in_lists() -> None:
    logprobs = {
        "tokens": [" a", " b"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{" a": -0.5, " x": -2.0}, None],
        "text_offset": [0, 2],
    }
    chunks: list[Json] = [
        {"choices": [{"text": " a b", "logprobs": logprobs}]},
        {"choices": [{"text": "", "finish_reason": "length"}]},
    ]
    reply, body = ask(
        StandInUpstream("vllm", chunks=chunks), ModelInput(prompt="Once"), SamplingParams(top_logprobs=2)
    )
    first, second = reply.deltas[0].logprobs
    assert body["logprobs"] == 2
    assert [(each.token_bytes, each.logprob) for each in first.top] == [(b" a", -0.5), (b" x", -2.0)]
    assert (second.token_bytes, second.logprob, second.top) == (b" b", -0.25, ())


def called(index: int | None, **fields: object) -> Json:
    return {"index": index, "type": "function", **fields}


def test_calls_of_ollama_have_one_index_and_several_ids() -> None:
    chunks = [
        piece(
            tool_calls=[
                called(0, id="call_a", function={"name": "weather", "arguments": "{}"}),
                called(0, id="call_b", function={"name": "time", "arguments": "{}"}),
            ]
        ),
        piece("tool_calls"),
    ]
    reply, _ = ask(
        StandInUpstream("library", chunks=chunks), ModelInput(HI.messages, tool_use=ToolUse(TOOLS))
    )
    calls = [delta.tool_call for delta in reply.deltas if delta.tool_call]
    assert [(call.index, call.id, call.name) for call in calls] == [
        (0, "call_a", "weather"),
        (1, "call_b", "time"),
    ]


def test_call_of_tgi_is_not_in_a_list() -> None:
    call = called(0, id="", function={"name": "weather", "arguments": "{}"})
    reply, _ = ask(
        StandInUpstream("big", answers=TGI, chunks=[piece(tool_calls=call), piece("stop")]),
        ModelInput(HI.messages, tool_use=ToolUse(TOOLS)),
    )
    (delta,) = reply.deltas
    assert delta.tool_call is not None
    assert (delta.tool_call.name, delta.text) == ("weather", "{}")


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 8}}, (8, 0)),
        ({"prompt_tokens_details": None, "reasoning_tokens": 3}, (0, 3)),  # SGLang
        ({"completion_tokens_details": {"reasoning_tokens": 2}}, (0, 2)),
        ({"prompt_tokens_details": {"cached_tokens": "odd"}}, (0, 0)),
    ],
)
def test_usage_is_read_in_every_form(usage: Json, counts: tuple[int, int]) -> None:
    end: Json = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, **usage}}
    reply, _ = ask(StandInUpstream(chunks=[piece(content="a"), piece("stop"), end]))
    found = reply.finished.usage
    assert (found.prompt_tokens, found.completion_tokens) == (9, 5)
    assert (found.cached_tokens, found.reasoning_tokens) == counts


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
def test_reply_that_the_engine_gave_up_is_interrupted(reason: str) -> None:
    reply, _ = ask(StandInUpstream(chunks=[piece(content="a"), piece(reason)]))
    assert reply.finished.finish_reason == "interrupted"


OVERFLOWS: list[tuple[int, object]] = [
    (
        400,  # vLLM
        {
            "error": {
                "message": "You passed 12289 input tokens and requested 4096 output tokens. However, "
                "the model's context length is only 16384 tokens, resulting in a maximum input "
                "length of 12288 tokens.",
                "type": "BadRequestError",
                "param": "input_tokens",
                "code": 400,
            }
        },
    ),
    (
        400,  # SGLang
        {
            "object": "error",
            "message": "Input length (5000 tokens) exceeds the maximum allowed length (4095 tokens).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    (
        400,  # llama-server, recorded
        {
            "error": {
                "code": 400,
                "message": "request (1531 tokens) exceeds the available context size (1024 tokens), "
                "try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 1531,
                "n_ctx": 1024,
            }
        },
    ),
    (
        422,  # TGI
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: "
            "5000 `inputs` tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    (
        400,  # LM Studio
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the context "
            "length. Try to load the model with a larger context length, or provide a shorter input"
        },
    ),
    (400, {"error": {"message": "Please reduce the length of the messages or completion."}}),  # Groq
    (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),  # Anthropic
]


@pytest.mark.parametrize(("status", "body"), OVERFLOWS)
def test_prompt_that_is_too_long_is_known_by_what_each_engine_says(status: int, body: object) -> None:
    error = refusal(StandInUpstream("openai", refusals=[(status, body)]))
    assert isinstance(error, ContextOverflow)


def test_prompt_that_is_found_too_long_in_the_stream_is_trimmed_as_well() -> None:
    upstream = StandInUpstream("organization_owner")
    upstream.first_streams = [[{"error": {"message": "the context length of 4096 tokens is exceeded"}}]]
    history = (ChatMessage("user", "Hi"), ChatMessage("assistant", "Hello"), *(HI.messages or ()))
    reply, body = ask(upstream, ModelInput(history))
    assert reply.accepted.omitted_messages == 2
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert reply.text() == "Hello there"


def test_refused_choice_of_a_tool_names_the_engine() -> None:
    one_call = ModelInput(HI.messages, tool_use=ToolUse(TOOLS, is_parallel=False))
    error = refusal(StandInUpstream(answers=TRANSFORMERS, owner="HuggingFaceTB"), one_call)
    assert error.message.startswith("parallel_tool_calls")
    assert "transformers serve" in error.message
