import pytest

from app.core.errors import NothingToDo
from app.models.conversation import Conversation, Message, last_turns, new_id


def conversation(turns: int) -> Conversation:
    made = Conversation()
    for index in range(turns):
        made.commit([Message("user", f"question {index}"), Message("assistant", f"answer {index}")])
    return made


def test_ids_carry_128_random_bits() -> None:
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


def test_commit_replaces_the_end() -> None:
    made = conversation(2)
    made.commit([Message("assistant", "better")], replacing=1)
    assert [message.content for message in made.messages][-2:] == ["question 1", "better"]


def test_drop_turns_drops_from_the_end_and_says_how_much() -> None:
    made = conversation(3)
    assert made.drop_turns(2) == 4
    assert made.last_reply().content == "answer 0"
    assert made.drop_turns(9) == 2
    with pytest.raises(NothingToDo):
        made.drop_turns(1)
    with pytest.raises(NothingToDo):
        made.last_reply()
