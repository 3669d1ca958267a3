import logging

import pytest

from app.core.errors import ConversationBusy, ConversationNotFound, QueueFull
from app.models.chat.store import ConversationStore
from app.models.conversation import Conversation


def store(max_conversations: int = 2, ttl_s: float = 60) -> ConversationStore:
    return ConversationStore(max_conversations=max_conversations, ttl_s=ttl_s)


def put(into: ConversationStore, count: int = 1) -> list[Conversation]:
    made = [Conversation() for _ in range(count)]
    for conversation in made:
        into.put(conversation)
    return made


def test_the_least_recently_used_leaves_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    kept = store()
    first, second = put(kept, 2)
    kept.get(first.id)
    with caplog.at_level(logging.WARNING):
        put(kept)
    assert kept.get(first.id) is first
    with pytest.raises(ConversationNotFound):
        kept.get(second.id)
    assert second.id in caplog.text


def test_a_conversation_in_a_turn_is_never_evicted() -> None:
    kept = store()
    first, second = put(kept, 2)
    with kept.turn(first):
        put(kept)
        assert kept.get(first.id) is first
        with pytest.raises(ConversationNotFound):
            kept.get(second.id)


def test_nothing_is_dropped_when_everything_is_in_use() -> None:
    kept = store(max_conversations=1)
    (only,) = put(kept)
    with kept.turn(only), pytest.raises(QueueFull):
        put(kept)
    assert kept.get(only.id) is only


def test_a_new_conversation_has_its_place_from_the_beginning_of_its_turn() -> None:
    kept = store(max_conversations=2)
    (old,) = put(kept)
    fresh = Conversation()
    with kept.turn(old), kept.turn(fresh):
        with pytest.raises(QueueFull), kept.turn(Conversation()):
            pass
        kept.put(fresh)
    assert kept.get(fresh.id) is fresh
    assert len(kept) == 2


def test_a_turn_excludes_another_and_a_delete() -> None:
    kept = store()
    (only,) = put(kept)
    with kept.turn(only):
        with pytest.raises(ConversationBusy), kept.turn(only):
            pass
        with pytest.raises(ConversationBusy):
            kept.delete(only.id)
    kept.delete(only.id)
    with pytest.raises(ConversationNotFound):
        kept.get(only.id)


def test_a_turn_ends_also_when_it_fails() -> None:
    kept = store()
    (only,) = put(kept)
    with pytest.raises(ZeroDivisionError), kept.turn(only):
        raise ZeroDivisionError
    with kept.turn(only):
        pass


def test_old_conversations_are_forgotten() -> None:
    now_s = [0.0]
    kept = ConversationStore(max_conversations=2, ttl_s=60, clock=lambda: now_s[0])
    (old,) = put(kept)
    now_s[0] = 50
    (young,) = put(kept)
    now_s[0] = 61
    with pytest.raises(ConversationNotFound):
        kept.get(old.id)
    assert kept.page(limit=10, offset=0) == [young]


def test_page_lists_the_most_recently_used_first() -> None:
    kept = store(max_conversations=3)
    first, second, third = put(kept, 3)
    kept.get(first.id)
    assert kept.page(limit=2, offset=0) == [first, third]
    assert kept.page(limit=2, offset=2) == [second]
    assert len(kept) == 3
