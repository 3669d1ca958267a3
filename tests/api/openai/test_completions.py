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
