"""Text completions with OpenAI's own client, on prescribed replies."""

from typing import Any

import openai
import pytest

from app.core.errors import ContextOverflow, InvalidRequest
from app.engine.ipc.messages import (
    Delta,
    Finished,
    PromptLogprobs,
    RawPrompt,
    RequestTimings,
    TokenCounts,
    TokenLogprob,
)
from tests.models.stand_in import WHOLE, StandInBackend


def test_a_text_is_continued(client: openai.OpenAI, backend: StandInBackend) -> None:
    reply = client.completions.create(model="stand-in", prompt="Once", temperature=0)
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("Hello there", "stop")
    assert backend.requests[0].prompt == "Once"
    assert backend.sampling[0].max_tokens == 16


def test_a_stream_joined_is_the_whole_text(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="stand-in", prompt=["Once"], stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Hello there"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 7


def test_echo_repeats_the_prompt_with_its_log_probabilities(
    client: openai.OpenAI, backend: StandInBackend
) -> None:
    accepted, *_, finished = WHOLE
    once, said = TokenLogprob(1, b"Once", None, ()), TokenLogprob(2, b" said", -1.5, ())
    backend.reply = (
        accepted,
        PromptLogprobs("r", (once,)),
        Delta("r", " said", 1, logprobs=(said,)),
        finished,
    )
    reply = client.completions.create(model="stand-in", prompt="Once", echo=True, logprobs=0)
    (choice,) = reply.choices
    assert choice.text == "Once said"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Once", " said"]
    assert choice.logprobs.token_logprobs == [None, -1.5]
    assert choice.logprobs.text_offset == [0, 4]
    assert backend.requests[0].prompt_logprobs


def test_too_many_log_probabilities_of_all_prompts_are_refused(
    client: openai.OpenAI, backend: StandInBackend
) -> None:
    accepted, *_, finished = WHOLE
    tokens = (TokenLogprob(1, b"a", None, ()),) * 100_001
    backend.reply = (accepted, PromptLogprobs("r", tokens), finished)
    prompts: Any = {"model": "stand-in", "echo": True, "logprobs": 0, "max_tokens": 0}
    assert client.completions.create(prompt=["Once"], **prompts).choices
    with pytest.raises(openai.BadRequestError, match="Send fewer prompts"):
        client.completions.create(prompt=["Once", "Twice"], **prompts)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        ([[1, 2], [3], [4]], [(1, 2), (3,), (4,)]),
    ],
)
def test_choices_are_numbered_prompt_by_prompt(
    client: openai.OpenAI, backend: StandInBackend, prompt: Any, prompts: list[RawPrompt]
) -> None:
    reply = client.completions.create(model="stand-in", prompt=prompt, n=2, seed=5)
    assert [choice.index for choice in reply.choices] == list(range(6))
    assert {choice.text for choice in reply.choices} == {"Hello there"}
    asked = zip(backend.requests, backend.sampling, strict=True)
    assert [(request.prompt, sampling.seed) for request, sampling in asked] == [
        (each, seed) for each in prompts for seed in (5, 6)
    ]
    assert reply.usage is not None
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, 24, 33)


def test_a_list_of_ids_is_one_prompt(client: openai.OpenAI, backend: StandInBackend) -> None:
    reply = client.completions.create(model="stand-in", prompt=[72, 105])
    assert len(reply.choices) == 1
    assert backend.requests[0].prompt == (72, 105)


def test_a_stream_of_several_prompts_says_whose_each_text_is(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="stand-in", prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True}
        )
    )
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert set(texts.values()) == {"Hello there"} and len(texts) == 4
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 6


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (InvalidRequest("prompt: there is no token 9 (at position 0)"), "prompt.1: there is no token 9"),
        (ContextOverflow("The prompt has 900 tokens."), "prompt.1: The prompt has 900 tokens"),
        (InvalidRequest("logit_bias: there is no token 9"), "logit_bias: there is no token 9"),
    ],
)
def test_one_wrong_prompt_refuses_all(
    client: openai.OpenAI, backend: StandInBackend, refusal: InvalidRequest, said: str, stream: bool
) -> None:
    backend.refusals = {"b": refusal}
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="stand-in", prompt=["a", "b", "c"], stream=stream)
    assert refused.value.message.count(said) == 1
    assert refused.value.param == said.partition(":")[0]
    assert refused.value.code == refusal.code


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ([[]], "prompt.0"),
        (["a", ""], "prompt.1"),
        ([1, "a"], "prompt.1"),
        ([True], "prompt.0"),
        (["a", 1], "prompt.1"),
        ([[1], 2], "prompt.1"),
        ([[1], [2, -1]], "prompt.1.1"),
        ([1, 2.5], "prompt.1"),
        ({"a": 1}, "prompt"),
    ],
)
def test_a_wrong_prompt_is_named(
    client: openai.OpenAI, backend: StandInBackend, prompt: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/completions", cast_to=object, body={"model": "stand-in", "prompt": prompt})
    assert refused.value.param == param
    assert backend.requests == []


def test_ids_are_echoed_as_their_text(client: openai.OpenAI, backend: StandInBackend) -> None:
    ids = [[72, 105], [79, 104]]
    reply = client.completions.create(model="stand-in", prompt=ids, echo=True)
    assert [choice.text for choice in reply.choices] == ["HiHello there", "OhHello there"]


def test_a_prompt_is_scored_without_a_reply(client: openai.OpenAI, backend: StandInBackend) -> None:
    once = TokenLogprob(72, b"H", None, ()), TokenLogprob(105, b"i", -1.5, (TokenLogprob(2, b"o", -0.5, ()),))
    end = Finished("r", "length", TokenCounts(2, 0, 0, 0), RequestTimings(0.0, 0.5, 2.0))
    backend.reply = (WHOLE[0], PromptLogprobs("r", once), end)
    reply = client.completions.create(
        model="stand-in", prompt=[[72, 105]], echo=True, logprobs=1, max_tokens=0, temperature=0
    )
    assert backend.sampling[0].max_tokens == 0
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason) == ("Hi", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == [None, -1.5]
    assert choice.logprobs.top_logprobs == [None, {"o": -0.5, "i": -1.5}]  # the token itself is always there


def test_of_tokens_with_one_text_the_likeliest_is_reported(
    client: openai.OpenAI, backend: StandInBackend
) -> None:
    top = TokenLogprob(1, b"\xe2", -0.25, ()), TokenLogprob(2, b"\xe3", -1.25, ())
    delta = Delta("r", "\ufffd", 1, logprobs=(TokenLogprob(2, b"\xe3", -1.25, top),))
    backend.reply = (WHOLE[0], delta, WHOLE[-1])
    (choice,) = client.completions.create(model="stand-in", prompt="x", logprobs=2).choices
    assert choice.logprobs is not None
    assert choice.logprobs.top_logprobs == [{"\ufffd": -0.25}]


def test_offsets_go_on_from_chunk_to_chunk(client: openai.OpenAI, backend: StandInBackend) -> None:
    accepted, *_, finished = WHOLE
    words = [TokenLogprob(index, word, -1.0, ()) for index, word in enumerate((b"Once", b" upon", b" a"))]
    backend.reply = (
        accepted,
        Delta("r", "Once upon", 2, logprobs=(words[0], words[1])),
        Delta("r", " a", 3, logprobs=(words[2],)),
        finished,
    )
    whole = client.completions.create(model="stand-in", prompt="x", logprobs=0, n=2)
    chunks = list(client.completions.create(model="stand-in", prompt="x", logprobs=0, n=2, stream=True))
    for choice in whole.choices:
        assert choice.logprobs is not None and choice.logprobs.text_offset == [0, 4, 9]
        pieces = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        streamed = [
            offset for piece in pieces if piece.logprobs for offset in piece.logprobs.text_offset or ()
        ]
        assert streamed == choice.logprobs.text_offset


@pytest.mark.parametrize(
    ("prompt", "tokens", "replied", "offsets"),
    [
        ("é🦊!", (b"\xc3", b"\xa9", b"\xf0\x9f", b"\xa6\x8a!"), (b" \xc3", b"\xb3"), [0, 0, 1, 1, 3, 4]),
        ("Once", (b"<s>", b" Once"), (b" said",), [0, 0, 4]),  # a tokenizer has added both
        ("\ufffd", (b"\xf0\x9f",), (b"a",), [0, 1]),  # ids that end within a character
    ],
)
def test_offsets_are_places_in_the_text(
    client: openai.OpenAI,
    backend: StandInBackend,
    prompt: str,
    tokens: tuple[bytes, ...],
    replied: tuple[bytes, ...],
    offsets: list[int],
) -> None:
    first, then = ([TokenLogprob(1, each, -1.0, ()) for each in group] for group in (tokens, replied))
    text = b"".join(replied).decode()
    backend.reply = (
        WHOLE[0],
        PromptLogprobs("r", tuple(first)),
        *(Delta("r", text if one is then[-1] else "", 1, logprobs=(one,)) for one in then),
        WHOLE[-1],
    )
    asked: dict[str, Any] = {"model": "stand-in", "prompt": prompt, "logprobs": 0}
    (choice,) = client.completions.create(**asked, echo=True).choices
    assert choice.text == prompt + text
    assert choice.logprobs is not None and choice.logprobs.text_offset == offsets
    streamed = [
        offset
        for chunk in client.completions.create(**asked, stream=True)
        for choice in chunk.choices
        if choice.logprobs is not None
        for offset in choice.logprobs.text_offset or ()
    ]
    assert streamed == [offset - len(prompt) for offset in offsets[len(tokens) :]]


def test_every_echoed_choice_has_the_log_probabilities_of_the_prompt(
    client: openai.OpenAI, backend: StandInBackend
) -> None:
    once, said = TokenLogprob(1, b"Once", None, ()), TokenLogprob(2, b" said", -1.5, ())
    backend.reply = (
        WHOLE[0],
        PromptLogprobs("r", (once,)),
        Delta("r", " said", 1, logprobs=(said,)),
        WHOLE[-1],
    )
    reply = client.completions.create(model="stand-in", prompt="Once", echo=True, logprobs=0, n=2)
    for choice in reply.choices:
        assert choice.logprobs is not None and choice.logprobs.tokens == ["Once", " said"]


@pytest.mark.parametrize(
    "fields",
    [
        {"suffix": "x"},
        {"best_of": 3},
        {"prompt": ""},
        {"echo": True, "stream": True},
        {"max_tokens": 0},
        {"max_tokens": -1, "echo": True},
        {"prompt": ["x"] * 2000},
    ],
)
def test_what_cannot_be_honoured_is_refused(
    client: openai.OpenAI, backend: StandInBackend, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/completions", cast_to=object, body={"model": "stand-in", "prompt": "x"} | fields)
    assert backend.requests == []
