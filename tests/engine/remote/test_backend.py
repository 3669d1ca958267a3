"""The backend that serves a model with another server, against a stand-in on loopback."""

import asyncio
from contextlib import aclosing

import pytest

from app.core.deadline import Deadline
from app.core.errors import (
    ContextOverflow,
    DeadlineExceeded,
    DomainError,
    InvalidRequest,
    ModelLoadFailed,
    ModelUnavailable,
    QueueFull,
    ShuttingDown,
    WorkerDied,
)
from app.core.telemetry.logging import request_id
from app.core.telemetry.propagation import traceparent
from app.engine.backend import ModelInput
from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Delta,
    Grammar,
    SamplingParams,
    TokenCounts,
    Tool,
    ToolCall,
    ToolUse,
)
from app.engine.remote.backend import RemoteBackend
from tests.engine.remote.asking import (
    GREEDY,
    HI,
    SOON,
    ask,
    backend_of,
    collect,
    engine_of,
    profile_of,
    refusal,
)
from tests.engine.remote.standin import KEY, Json, StandInUpstream, piece, running_upstream, usage
from tests.waiting import until


def test_reply_has_its_text_counts_and_end() -> None:
    reply, body = ask(StandInUpstream())
    assert reply.text() == "Hello there"
    assert reply.accepted == Accepted("", None, 0, 8)
    assert reply.finished.finish_reason == "stop"
    assert reply.finished.usage == TokenCounts(9, 3, 4)
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert body["model"] == "big"
    assert (body["temperature"], body["max_tokens"]) == (0, 8)


def test_id_and_trace_of_the_request_are_passed_on() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    upstream = StandInUpstream()
    tokens = request_id.set("mine"), traceparent.set(parent)
    ask(upstream)
    request_id.reset(tokens[0])
    traceparent.reset(tokens[1])
    ask(upstream)
    inside, outside = upstream.headers
    assert (inside["x-request-id"], inside["traceparent"]) == ("mine", parent)
    assert not {"x-request-id", "traceparent"} & outside.keys()


def test_line_separators_in_a_reply_are_kept() -> None:
    text = "one\u2028two\u0085three\x0c"
    reply, _ = ask(StandInUpstream(chunks=[piece(content=text), piece("stop")]))
    assert reply.text() == text


def test_stop_string_that_ended_the_reply_is_reported() -> None:
    end = piece("stop")
    end["choices"][0]["stop_reason"] = "END"
    reply, _ = ask(StandInUpstream(chunks=[piece(content="a"), end]), sampling=SamplingParams(stop=("END",)))
    assert reply.finished.matched_stop == "END"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_comes_before_the_text(name: str) -> None:
    chunks = [piece(**{name: "Hm."}), piece(content="Yes"), piece("length")]
    reply, _ = ask(StandInUpstream(chunks=chunks))
    assert [(delta.kind, delta.text) for delta in reply.deltas] == [("thinking", "Hm."), ("text", "Yes")]
    assert reply.finished.finish_reason == "length"


def test_tool_calls_are_put_together_by_their_index() -> None:
    def call(index: int, **fields: object) -> Json:
        return piece(tool_calls=[{"index": index, **fields}])

    chunks = [
        call(0, id="a", function={"name": "weather", "arguments": ""}),
        call(0, function={"arguments": '{"city": '}),
        call(1, function={"name": "time", "arguments": "{}"}),
        call(0, function={"arguments": '"Rome"}'}),
        piece("tool_calls"),
    ]
    tools = ToolUse((Tool("weather"), Tool("time")), "required", is_parallel=False)
    reply, body = ask(StandInUpstream(chunks=chunks), ModelInput(HI.messages, tool_use=tools))
    calls = [
        (delta.tool_call.index, delta.tool_call.name, delta.text) for delta in reply.deltas if delta.tool_call
    ]
    assert calls == [
        (0, "weather", ""),
        (0, "weather", '{"city": '),
        (1, "time", "{}"),
        (0, "weather", '"Rome"}'),
    ]
    assert all(delta.tool_call.id for delta in reply.deltas if delta.tool_call)
    assert body["tool_choice"] == "required"
    assert body["parallel_tool_calls"] is False
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather", "time"]


def test_calls_and_results_of_the_history_are_sent() -> None:
    history = (
        *(HI.messages or ()),
        ChatMessage("assistant", "", (ToolCall("a", "weather", '{"city": "Rome"}'),)),
        ChatMessage("tool", "sunny", tool_call_id="a"),
    )
    _, body = ask(StandInUpstream(), ModelInput(history))
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert body["messages"][1]["tool_calls"] == [{"id": "a", "type": "function", "function": function}]
    assert body["messages"][2] == {"role": "tool", "content": "sunny", "tool_call_id": "a"}


def test_log_probabilities_pass_through() -> None:
    entry = {
        "token": "é",
        "bytes": [195, 169],
        "logprob": -0.5,
        "top_logprobs": [{"token": "e", "logprob": -1.0}],
    }
    chunk = piece(content="é")
    chunk["choices"][0]["logprobs"] = {"content": [entry]}
    reply, body = ask(StandInUpstream(chunks=[chunk, piece("stop")]), sampling=SamplingParams(top_logprobs=1))
    (token,) = reply.deltas[0].logprobs
    assert (token.token_bytes, token.logprob) == ("é".encode(), -0.5)
    assert [(other.token_bytes, other.logprob) for other in token.top] == [(b"e", -1.0)]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)


def test_raw_prompt_goes_to_completions() -> None:
    chunks: list[Json] = [
        {"choices": [{"text": "upon a time"}]},
        {"choices": [{"text": "", "finish_reason": "length"}]},
    ]
    reply, body = ask(StandInUpstream(chunks=chunks), ModelInput(prompt="Once"))
    assert reply.text() == "upon a time"
    assert body["prompt"] == "Once"


def test_fields_have_the_names_of_the_kind_ofengine_of() -> None:
    sampling = SamplingParams(top_k=7, repetition_penalty=1.5, temperature=1)
    _, body = ask(StandInUpstream(owner="llamacpp"), sampling=sampling)
    assert (body["top_k"], body["repeat_penalty"]) == (7, 1.5)


def test_neutral_values_are_sent_so_that_no_other_default_holds() -> None:
    neutral = SamplingParams(temperature=1.0, max_tokens=8)
    _, body = ask(StandInUpstream(owner="vllm"), sampling=neutral)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (0, 0, 1)
    assert (body["temperature"], body["top_p"]) == (1, 1)
    _, body = ask(StandInUpstream(owner="openai"), sampling=neutral)
    always = {"model", "messages", "stream", "stream_options", "max_tokens"}
    assert body.keys() == always | {"temperature", "top_p"}


def test_what_nobody_set_is_left_to_theengine_of() -> None:
    left = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    _, body = ask(StandInUpstream(owner="vllm"), sampling=SamplingParams(left_to_engine=left))
    assert body.keys() == {"model", "messages", "stream", "stream_options"}


BEGUN = (ChatMessage("user", "Hi"), ChatMessage("assistant", "Hel"))
SCHEMA = Grammar("json_schema", '{"type": "object"}')


@pytest.mark.parametrize(
    ("owner", "field_name", "model_input", "sampling"),
    [
        ("openai", "top_k", HI, SamplingParams(top_k=5)),
        ("openai", "bad_words", HI, SamplingParams(bad_words=("no",))),
        ("library", "logit_bias", HI, SamplingParams(logit_bias={1: 2.0})),
        (
            "library",
            "tool_choice",
            ModelInput(HI.messages, tool_use=ToolUse((Tool("t"),), "required")),
            GREEDY,
        ),
        ("organization_owner", "top_logprobs", HI, SamplingParams(top_logprobs=2)),
        ("openai", "think", ModelInput(HI.messages, think=True), GREEDY),
        ("vllm", "thinking_budget", ModelInput(HI.messages, thinking_budget=9), GREEDY),
        ("library", "token ids", ModelInput(prompt=(1, 2)), GREEDY),
        ("vllm", "max_tokens: 0", ModelInput(prompt="Hi"), SamplingParams(max_tokens=0)),
        ("vllm", "prompt_logprobs", ModelInput(prompt="Hi", prompt_logprobs=True), GREEDY),
        ("vllm", "lark", ModelInput(HI.messages, grammar=Grammar("lark", "start: /a/")), GREEDY),
        ("openai", "continuing", ModelInput(BEGUN, continue_final_message=True), GREEDY),
    ],
)
def test_what_the_engine_cannot_do_is_refused_before_it_is_sent(
    owner: str, field_name: str, model_input: ModelInput, sampling: SamplingParams
) -> None:
    upstream = StandInUpstream(owner=owner)
    error = refusal(upstream, model_input, sampling)
    assert isinstance(error, InvalidRequest)
    assert field_name in error.message
    assert upstream.bodies == []


def test_a_budget_that_is_a_hint_is_left_out() -> None:
    wished = ModelInput(HI.messages, thinking_budget=9, wants_thinking=True, is_budget_hint=True)
    _, body = ask(StandInUpstream(), wished)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}


def test_form_of_the_reply_is_sent_as_the_engine_names_it() -> None:
    _, body = ask(StandInUpstream(), ModelInput(HI.messages, grammar=SCHEMA))
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    _, body = ask(StandInUpstream(owner="sglang"), ModelInput(HI.messages, grammar=Grammar("regex", "a+")))
    assert body["regex"] == "a+"
    _, body = ask(StandInUpstream(), ModelInput(HI.messages, grammar=Grammar("choice", '["a"]')))
    assert body["structured_outputs"] == {"choice": ["a"]}


def chat_of(turns: int) -> ModelInput:
    """A chat whose turns have eight words each, after a system prompt of two."""
    messages = [ChatMessage("system", "be kind")]
    for turn in range(turns):
        messages += [
            ChatMessage("user", f"question {turn} of many"),
            ChatMessage("assistant", f"answer {turn} of many"),
        ]
    return ModelInput((*messages, ChatMessage("user", "and now")))


def test_history_beyond_the_window_is_trimmed_by_the_engines_own_count() -> None:
    upstream = StandInUpstream(window=40, card={"max_model_len": 40})
    reply, body = ask(upstream, chat_of(10))
    assert reply.accepted.omitted_messages == 14  # three turns and the reply's eight tokens fit into 40
    assert body["messages"][0]["content"] == "be kind"
    assert body["messages"][1]["content"] == "question 7 of many"
    assert len(upstream.bodies) == 2


def test_history_is_trimmed_by_the_count_of_llama_server_too() -> None:
    upstream = StandInUpstream(owner="llamacpp", window=40, card={"meta": {"n_ctx": 40}})
    reply, _ = ask(upstream, chat_of(10))
    assert reply.accepted.omitted_messages == 14


def test_history_is_halved_where_the_engine_counts_nothing() -> None:
    upstream = StandInUpstream(owner="openai", window=40)
    reply, body = ask(upstream, chat_of(10))
    assert reply.accepted.omitted_messages == 16
    assert body["messages"][-1]["content"] == "and now"


@pytest.mark.parametrize("count", [({"detail": "Not Found"}, 404), ({"count": None},), (["odd"],)])
def test_history_is_halved_where_the_count_fails(count: tuple[object, ...]) -> None:
    upstream = StandInUpstream(window=40, card={"max_model_len": 40}, count=count)
    reply, _ = ask(upstream, chat_of(10))
    assert reply.accepted.omitted_messages == 16


def test_reply_gets_the_room_that_is_left() -> None:
    upstream = StandInUpstream(window=40, card={"max_model_len": 40})
    reply, body = ask(upstream, chat_of(2), SamplingParams(temperature=0, max_tokens=38))
    assert body["max_tokens"] == reply.accepted.max_tokens
    assert 10 <= reply.accepted.max_tokens < 38


@pytest.mark.parametrize("owner", ["vllm", "openai"])
def test_message_that_cannot_fit_is_refused(owner: str) -> None:
    upstream = StandInUpstream(owner=owner, window=40, card={"max_model_len": 40})
    error = refusal(upstream, ModelInput((ChatMessage("user", "word " * 50),)))
    assert isinstance(error, ContextOverflow)


@pytest.mark.parametrize(
    ("status", "expected", "said"),
    [
        (400, InvalidRequest, "is odd"),
        (401, ModelUnavailable, "key"),
        (404, ModelUnavailable, "does not serve"),
        (429, QueueFull, "too many"),
        (302, ModelUnavailable, "redirects"),
        (500, ModelUnavailable, "500"),
        (502, WorkerDied, "502"),
        (503, WorkerDied, "503"),
    ],
)
def test_refusals_keep_their_cause_and_no_secret(status: int, expected: type[DomainError], said: str) -> None:
    upstream = StandInUpstream(refusals=[])
    with running_upstream(upstream):
        pass
    upstream.refusals.append((status, {"error": {"message": f"{upstream.url} with {KEY} is odd"}}))
    error = refusal(upstream)
    assert type(error) is expected
    assert said in error.message


def test_retry_time_of_a_full_engine_is_kept() -> None:
    error = refusal(StandInUpstream(refusals=[(429, {"error": "slow down"})]))
    assert error.retry_after == 7


@pytest.mark.parametrize(
    "upstream",
    [
        StandInUpstream(chunks=[piece(content="Hel"), {"error": {"message": "out of memory"}}]),
        StandInUpstream(chunks=[piece(content="Hel"), {"choices": [{"delta": "odd"}]}]),
        StandInUpstream(chunks=[piece(content="Hel")]),
        StandInUpstream(chunks=[piece(content="Hel")], says_done=False),
        StandInUpstream(chunks=[piece(content="Hel")], breaks_off=True),
    ],
    ids=["error", "odd form", "no end", "nothing more", "broken off"],
)
def test_fault_amid_the_reply_is_one_error(upstream: StandInUpstream) -> None:
    assert isinstance(refusal(upstream), ModelUnavailable)


def test_reply_that_takes_too_long_ends_at_the_deadline() -> None:
    upstream = StandInUpstream(is_endless=True)

    async def run() -> None:
        async with backend_of(upstream) as backend:
            await collect(backend, within_s=0.3)

    with running_upstream(upstream), pytest.raises(DeadlineExceeded):
        asyncio.run(run())


def test_client_that_leaves_ends_the_request_upstream() -> None:
    upstream = StandInUpstream(is_endless=True)

    async def run() -> None:
        async with backend_of(upstream) as backend:
            async with aclosing(backend.generate(HI, GREEDY, Deadline.after(SOON))) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        break
            await until(upstream.has_left.is_set, "the upstream to notice")
            assert backend.stats.open_requests == 0

    with running_upstream(upstream):
        asyncio.run(run())


def test_closing_ends_open_requests() -> None:
    upstream = StandInUpstream(chunks=[piece(content="Hel")], is_endless=True)

    async def run() -> None:
        async with backend_of(upstream) as backend:
            reply = asyncio.create_task(collect(backend))
            await until(lambda: backend.stats.open_requests == 1 and upstream.bodies, "the request")
            await backend.close()
            with pytest.raises(ShuttingDown):
                await reply

    with running_upstream(upstream):
        asyncio.run(run())


def test_engine_that_is_gone_is_reported() -> None:
    upstream = StandInUpstream()

    async def run() -> None:
        with running_upstream(upstream):
            backend = await RemoteBackend.start(profile_of(upstream), engine_of(upstream), KEY)
            await collect(backend)
            assert backend.failure is None
        for _ in range(3):
            with pytest.raises(WorkerDied, match="cannot be reached"):
                await collect(backend)
        assert backend.failure is not None
        assert "127.0.0.1" not in backend.failure
        await backend.close()

    asyncio.run(run())


def test_engine_without_the_model_is_refused_with_what_it_has() -> None:
    with (
        running_upstream(StandInUpstream(model="small")) as upstream,
        pytest.raises(ModelLoadFailed) as caught,
    ):
        asyncio.run(RemoteBackend.start(profile_of(upstream), engine_of(upstream), None))
    assert "small" in str(caught.value.hint)


def test_wrong_key_is_refused_without_showing_it() -> None:
    with (
        running_upstream(StandInUpstream(needs_key=True)) as upstream,
        pytest.raises(ModelUnavailable) as caught,
    ):
        asyncio.run(RemoteBackend.start(profile_of(upstream), engine_of(upstream), "sk-wrong"))
    assert "key" in caught.value.message
    assert KEY not in caught.value.message


def test_window_comes_from_theengine_of() -> None:
    upstream = StandInUpstream(card={"max_model_len": 4321})

    async def run() -> int:
        async with backend_of(upstream) as backend:
            return backend.info.context_length

    with running_upstream(upstream):
        assert asyncio.run(run()) == 4321


def test_prompt_is_counted_where_the_engine_can() -> None:
    async def run(upstream: StandInUpstream) -> int:
        async with backend_of(upstream) as backend:
            return await backend.count_tokens(chat_of(1), Deadline.after(SOON))

    for owner in ("vllm", "llamacpp"):
        with running_upstream(StandInUpstream(owner=owner)) as upstream:
            assert asyncio.run(run(upstream)) == 12
    with running_upstream(StandInUpstream(owner="library")) as upstream, pytest.raises(InvalidRequest):
        asyncio.run(run(upstream))


def test_open_requests_are_limited() -> None:
    upstream = StandInUpstream(is_endless=True)

    async def run() -> None:
        backend = await RemoteBackend.start(profile_of(upstream), engine_of(upstream), KEY, max_requests=1)
        reply = asyncio.create_task(collect(backend))
        await until(lambda: backend.stats.open_requests == 1, "the first request")
        with pytest.raises(QueueFull):
            await collect(backend)
        await backend.close()
        with pytest.raises(ShuttingDown):
            await reply

    with running_upstream(upstream):
        asyncio.run(run())


def test_usage_counts_pieces_until_the_engine_tells() -> None:
    reply, _ = ask(StandInUpstream(chunks=[piece(content="a"), piece(content="b"), piece("stop")]))
    assert [delta.tokens for delta in reply.deltas] == [1, 2]
    assert reply.finished.usage.completion_tokens == 2
    reply, _ = ask(StandInUpstream(chunks=[piece(content="a"), piece("stop"), usage(5, 7)]))
    assert reply.finished.usage == TokenCounts(5, 7, 0)
