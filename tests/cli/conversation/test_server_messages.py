"""After an interrupted answer, the client takes over the server's messages."""

import pytest

from app.cli.conversation.server_messages import contains_last_answer
from app.cli.transcripts.message_tree import ConversationTree
from app.models.schemas import TranscriptMessage


def chat(*texts: str) -> ConversationTree:
    messages = [TranscriptMessage(role=("user", "assistant")[i % 2], content=t) for i, t in enumerate(texts)]
    return ConversationTree.linear(messages)


@pytest.mark.parametrize(
    ("there", "is_settled"),
    [
        (chat("hi"), False),  # the turn is not committed yet
        (chat("hi", "An old answer"), False),  # an older answer to the same message
        (chat("hi", "A new ans"), True),
        (chat("hi", "A new answer, with words that never arrived"), True),
    ],
)
def test_contains_last_answer_recognises_the_interrupted_answer(
    there: ConversationTree, is_settled: bool
) -> None:
    assert contains_last_answer(there, chat("hi", "A new ans").branch) is is_settled


def test_contains_last_answer_knows_answers_by_their_ids() -> None:
    shown = chat("hi", "A")
    named = shown.renamed({shown.branch[1].id: "msg_2"})
    assert contains_last_answer(named, named.branch)
    assert not contains_last_answer(chat("hi", "Another version"), named.branch)
