import json
from typing import Any

import pytest

from app.conversations.archive import DamagedLine, from_line, to_line
from app.models.conversation import Conversation, Message, ReplyFacts, chained, text_message
from app.models.schemas import TextPart, ThinkingPart, ToolCallPart, ToolResultPart


def conversation() -> tuple[Conversation, tuple[Message, ...]]:
    """Two branches below one question."""
    question, answer = chained(
        (text_message("user", "q \0 é"), text_message("assistant", "a", ReplyFacts("m")))
    )
    parts = (ThinkingPart(text="hm"), ToolCallPart(id="1", name="f", arguments="{"), TextPart(text=""))
    other = Message("assistant", parts).below(question)
    result = Message("tool", (ToolResultPart(id="1", content="2"),)).below(other)
    messages = (question, answer, other, result)
    made = Conversation(owner="ada", title="t").with_messages(question, answer).with_messages(other, result)
    return made, messages


def test_a_line_keeps_the_whole_conversation() -> None:
    made, messages = conversation()
    archived = from_line(to_line(made, messages))
    assert (archived.conversation, archived.messages) == (made, messages)


def test_an_empty_conversation_is_a_line() -> None:
    made = Conversation()
    assert from_line(to_line(made, ())).conversation == made


def changed(**fields: Any) -> str:  # Any: JSON
    return json.dumps(json.loads(to_line(*conversation())) | fields)


def changed_message(index: int, **fields: Any) -> str:  # Any: JSON
    document = json.loads(to_line(*conversation()))
    document["messages"][index] |= fields
    return json.dumps(document)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "format"),
        (changed(version=2), "version"),
        (changed(format="x"), "format"),
        (changed(more=1), "more"),
        (changed(id="conv_\0"), "id"),
        (changed(owner="../x"), "owner"),
        (changed(head_id="msg_none"), "head"),
        (changed(created_at="2026-01-01T00:00:00"), "created_at"),
        (changed_message(1, parent_id="msg_none"), "parent"),
        (changed_message(0, parent_id="self"), "parent"),
        (changed_message(1, role="robot"), "role"),
        (changed_message(1, parts=[{"type": "image"}]), "parts"),
    ],
)
def test_a_damaged_line_is_refused_with_its_reason(line: str, reason: str) -> None:
    with pytest.raises(DamagedLine, match=reason):
        from_line(line)


def test_a_message_that_is_there_twice_is_refused() -> None:
    made, messages = conversation()
    with pytest.raises(DamagedLine, match="twice"):
        document = json.loads(to_line(made, messages))
        from_line(json.dumps(document | {"messages": [*document["messages"], document["messages"][0]]}))
