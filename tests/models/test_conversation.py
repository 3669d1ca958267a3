from dataclasses import replace

from app.models.conversation import Conversation, Message, chained, new_id, text_message
from app.models.schemas import TextPart, ThinkingPart, ToolCallPart


def turns(count: int) -> tuple[Message, ...]:
    return chained(
        message
        for index in range(count)
        for message in (
            text_message("user", f"question {index}"),
            text_message("assistant", f"answer {index}"),
        )
    )


def test_new_id_carries_128_random_bits() -> None:
    ids = {new_id("conv") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(bytes.fromhex(made.removeprefix("conv_"))) == 16 for made in ids)


def test_chained_puts_each_message_below_the_one_before() -> None:
    messages = turns(2)
    assert [message.parent_id for message in messages] == [None, *(message.id for message in messages[:-1])]
    assert [message.depth for message in messages] == [1, 2, 3, 4]


def test_with_messages_moves_the_head_and_leaves_the_conversation_itself_as_it_was() -> None:
    before = Conversation()
    messages = turns(2)
    after = before.with_messages(*messages)
    assert (before.head_id, before.message_count) == (None, 0)
    assert (after.head_id, after.message_count, after.preview) == (messages[-1].id, 4, "question 0")
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert after.updated_at >= before.updated_at


def test_with_head_counts_the_messages_of_the_branch_and_keeps_the_size_of_all() -> None:
    messages = turns(2)
    whole = Conversation().with_messages(*messages)
    shorter = whole.with_head(messages[1])
    assert (shorter.head_id, shorter.message_count) == (messages[1].id, 2)
    assert shorter.size_bytes == whole.size_bytes
    empty = whole.with_head(None)
    assert (empty.head_id, empty.message_count) == (None, 0)


def test_size_bytes_counts_all_text_as_utf8() -> None:
    made = Conversation(title="é", system_prompt="ab").with_messages(text_message("user", "日"))
    assert made.size_bytes == 2 + 2 + 3


def test_a_message_counts_all_its_parts_and_shows_its_text_alone() -> None:
    parts = (
        ThinkingPart(text="hm"),
        TextPart(text="Let me "),
        ToolCallPart(id="1", name="f", arguments="{}"),
        TextPart(text="see"),
    )
    message = replace(text_message("assistant", ""), parts=parts)
    assert (message.content, message.thinking) == ("Let me see", "hm")
    assert message.size_bytes == 2 + 7 + 4 + 3
    assert text_message("user", "x").thinking is None
