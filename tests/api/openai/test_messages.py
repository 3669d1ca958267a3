import pytest

from app.api.openai.chat_requests import RequestMessage
from app.api.openai.messages import chat_messages
from app.core.errors import InvalidRequest
from app.engine.ipc.messages import ChatMessage


def translated(*messages: tuple[str, object]) -> list[tuple[str, str]]:
    made = [RequestMessage.model_validate({"role": role, "content": content}) for role, content in messages]
    return [(message.role, message.content) for message in chat_messages(made)]


def test_system_messages_that_follow_each_other_are_joined() -> None:
    assert translated(("system", "a"), ("developer", "b"), ("user", "c")) == [
        ("system", "a\n\nb"),
        ("user", "c"),
    ]


def test_a_later_system_message_begins_the_next_user_message() -> None:
    messages = translated(("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d"))
    assert messages == [("user", "a"), ("assistant", "b"), ("user", "c\n\nd")]


def test_user_messages_that_follow_each_other_are_joined() -> None:
    assert translated(("user", "a"), ("user", "b")) == [("user", "a\n\nb")]


def test_text_in_every_form_is_read() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "b"},
        {"type": "refusal", "refusal": "c"},
    ]
    assert translated(("assistant", parts), ("assistant", None)) == [("assistant", "abc"), ("assistant", "")]


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio"}])
def test_other_parts_are_refused_by_name(part: object) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\].content\[0\].*type"):
        translated(("user", [part]))


def test_a_tool_message_names_its_call() -> None:
    made = RequestMessage(role="tool", content="x", tool_call_id="call_1")
    assert chat_messages([made]) == (ChatMessage("tool", "x", tool_call_id="call_1"),)


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_only_an_assistant_message_may_lack_its_content(role: str) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\].content is missing"):
        translated(("user", "a"), (role, None))
