"""After an interrupted answer, the client takes over the server's messages."""

from datetime import UTC, datetime

import pytest

from app.cli.conversation.server_copy import contains_last_answer
from app.models.schemas import ConversationMessage, TranscriptMessage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def held(*texts: str) -> list[ConversationMessage]:
    roles = ("user", "assistant")
    return [
        ConversationMessage(id=str(i), role=roles[i % 2], content=t, timestamp=NOW)
        for i, t in enumerate(texts)
    ]


def shown(*texts: str) -> list[TranscriptMessage]:
    return [TranscriptMessage(role=("user", "assistant")[i % 2], content=t) for i, t in enumerate(texts)]


@pytest.mark.parametrize(
    ("there", "is_settled"),
    [
        (held("hi"), False),  # the turn is not committed yet
        (held("hi", "An old answer"), False),  # an older answer to the same message
        (held("hi", "A new ans"), True),
        (held("hi", "A new answer, with words that never arrived"), True),
    ],
)
def test_contains_last_answer_recognises_the_interrupted_answer(
    there: list[ConversationMessage], is_settled: bool
) -> None:
    assert contains_last_answer(there, shown("hi", "A new ans")) is is_settled
