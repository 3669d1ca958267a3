"""Text completions with OpenAI's own client, on prescribed replies."""

from typing import Any

import openai
import pytest

from app.engine.ipc.messages import Delta, PromptLogprobs, TokenLogprob
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
    [{"suffix": "x"}, {"best_of": 3}, {"prompt": [1, 2]}, {"prompt": ""}, {"echo": True, "stream": True}],
)
def test_what_cannot_be_honoured_is_refused(
    client: openai.OpenAI, backend: StandInBackend, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/completions", cast_to=object, body={"model": "stand-in", "prompt": "x"} | fields)
    assert backend.requests == []
