import pytest

from app.core.errors import NothingToDo
from app.models.conversation import Conversation, Message, last_turns, new_id


def conversation(turns: int) -> Conversation:
    made = Conversation()
    for index in range(turns):
        made = made.with_message(Message("user", f"question {index}"))
        made = made.with_message(Message("assistant", f"answer {index}"))
    return made


def contents(of: Conversation) -> list[str]:
    return [message.content for message in of.messages]


def test_new_id_carries_128_random_bits() -> None:
    ids = {new_id("conv") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(bytes.fromhex(made.removeprefix("conv_"))) == 16 for made in ids)


@pytest.mark.parametrize(("turns", "limit", "kept"), [(3, 2, 4), (2, 2, 4), (0, 1, 0), (3, 50, 6)])
def test_last_turns_keeps_whole_turns(turns: int, limit: int, kept: int) -> None:
    messages = last_turns(conversation(turns).messages, limit)
    assert len(messages) == kept
    assert not messages or messages[0].role == "user"


def test_last_turns_counts_a_message_without_reply_as_one() -> None:
    history = [*conversation(2).messages, Message("user", "and now?")]
    assert [message.content for message in last_turns(history, 1)] == ["and now?"]


def test_with_message_leaves_the_conversation_itself_as_it_was() -> None:
    before = conversation(1)
    after = before.with_message(Message("user", "and now?"))
    assert contents(before) == ["question 0", "answer 0"]
    assert contents(after) == ["question 0", "answer 0", "and now?"]
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert after.updated_at >= before.updated_at


def test_without_last_reply_ends_with_the_message_it_answered() -> None:
    assert contents(conversation(2).without_last_reply()) == ["question 0", "answer 0", "question 1"]


@pytest.mark.parametrize(("count", "kept"), [(1, 4), (2, 2), (3, 0), (9, 0)])
def test_without_last_turns_drops_whole_turns_from_the_end(count: int, kept: int) -> None:
    assert contents(conversation(3).without_last_turns(count)) == contents(conversation(3))[:kept]


def test_a_conversation_without_turns_has_nothing_to_drop() -> None:
    empty = Conversation()
    for drop in (empty.last_reply, empty.without_last_reply, lambda: empty.without_last_turns(1)):
        with pytest.raises(NothingToDo):
            drop()


def test_size_bytes_counts_all_text_as_utf8() -> None:
    made = Conversation(title="é", system_prompt="ab").with_message(Message("user", "日"))
    assert made.size_bytes == 2 + 2 + 3
