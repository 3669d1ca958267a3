import pytest

from app.core.errors import MessageNotFound
from app.models.conversation import Message, text_message
from app.models.storage.tree import MessageTree


def made() -> tuple[MessageTree, dict[str, Message]]:
    """A question with two answers, of which the first was followed by a turn; and an edited question."""
    first = text_message("user", "first").below(None)
    old = text_message("assistant", "old").below(first)
    follow = text_message("user", "follow").below(old)
    end = text_message("assistant", "end").below(follow)
    new = text_message("assistant", "new").below(first)
    edited = text_message("user", "edited").below(None)
    messages = [first, old, follow, end, new, edited]
    return MessageTree(messages), {message.content: message for message in messages}


def test_branch_goes_from_the_beginning_to_the_leaf() -> None:
    tree, of = made()
    assert [message.content for message in tree.branch(of["end"].id)] == ["first", "old", "follow", "end"]
    assert [message.content for message in tree.branch(of["new"].id)] == ["first", "new"]
    assert tree.branch(None) == ()


def test_siblings_are_the_messages_with_the_same_parent_in_order() -> None:
    tree, of = made()
    assert tree.siblings(of["new"]) == [of["old"].id, of["new"].id]
    assert tree.siblings(of["first"]) == [of["first"].id, of["edited"].id]
    assert tree.siblings(of["end"]) == [of["end"].id]


def test_newest_leaf_follows_the_newest_child() -> None:
    tree, of = made()
    assert tree.newest_leaf(of["first"].id) == of["new"]
    assert tree.newest_leaf(of["old"].id) == of["end"]
    assert tree.newest_leaf(of["edited"].id) == of["edited"]


def test_a_message_of_another_conversation_is_not_found() -> None:
    tree, _ = made()
    for look_up in (tree.find, tree.branch, tree.newest_leaf):
        with pytest.raises(MessageNotFound):
            look_up("msg_other")
