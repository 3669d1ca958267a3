"""After an interrupted answer, the client takes over the server's messages."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from app.cli.conversation.server.server_messages import contains_last_answer, from_server
from app.cli.transcripts.message_tree import ConversationTree
from app.models.schemas import ConversationResponse, TranscriptMessage


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


def held(*messages: Mapping[str, object]) -> ConversationResponse:
    """A conversation whose messages follow each other."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [f"msg_{number}" for number in range(len(messages))]
    return ConversationResponse.model_validate(
        {
            "conversation_id": "conv_1",
            "title": None,
            "system_prompt": "",
            "model_name": None,
            "created_at": moment,
            "updated_at": moment,
            "head_id": ids[-1],
            "message_count": len(ids),
            "messages": [
                {"id": own_id, "parent_id": parent_id, "content": "", "timestamp": moment} | {**message}
                for own_id, parent_id, message in zip(ids, [None, *ids], messages, strict=False)
            ],
        }
    )


def test_calls_of_tools_and_their_results_are_shown() -> None:
    call = {"type": "tool_call", "id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'}
    parts = [{"type": "text", "text": "Let me see."}, call]
    tree = from_server(
        held(
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "Let me see.", "parts": parts},
            {"role": "tool", "parts": [{"type": "tool_result", "id": "call_1", "content": "Rain."}]},
        )
    )
    assert [message.shown for message in tree.branch] == [
        "hi",
        'Let me see.\n\n→ `weather {"city": "Oslo"}`',
        "Rain.",
    ]


def test_a_system_message_does_not_break_the_branch() -> None:
    user, system = {"role": "user", "content": "hi"}, {"role": "system", "content": "Be kind."}
    assert [message.content for message in from_server(held(system, user, system, user)).branch] == ["hi"] * 2
    assert [message.content for message in from_server(held(user, system)).branch] == ["hi"]
