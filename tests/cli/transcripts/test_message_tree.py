"""Trees of messages: branches, siblings, and trees that a hostile server or a damaged file describes."""

import hypothesis.strategies as st
from hypothesis import given

from app.cli.transcripts.message_tree import TreeMessage, fault, rebuilt

IDS = st.sampled_from("abcde")


def message(message_id: str, parent_id: str | None = None, role: str = "assistant") -> TreeMessage:
    return TreeMessage.model_validate(
        {"id": message_id, "parent_id": parent_id, "role": role, "content": message_id}
    )


TREE = rebuilt(
    [
        message("q", None, "user"),
        message("a1", "q"),
        message("a2", "q"),
        message("r", "a1", "user"),
        message("b", "r"),
    ],
    "a2",
)


def ids(messages: list[TreeMessage]) -> list[str]:
    return [message.id for message in messages]


def test_branch_leads_from_the_beginning_to_the_head() -> None:
    assert ids(TREE.branch) == ["q", "a2"]
    assert ids(TREE.with_head("b").branch) == ["q", "a1", "r", "b"]
    assert ids(TREE.with_head(None).branch) == []


def test_siblings_are_versions_of_the_same_role() -> None:
    assert ids(TREE.siblings(TREE.messages["a2"])) == ["a1", "a2"]
    assert TREE.newest_leaf("q") == "a2" and TREE.newest_leaf("a1") == "b"


def test_message_with_a_taken_id_gets_another_one() -> None:
    grown = TREE.added_below("a2", message("q", role="user"))
    assert len(grown.messages) == 6 and grown.branch[-1].content == "q"
    assert grown.branch[-1].is_local and ids(grown.branch[:-1]) == ["q", "a2"]


def test_renamed_messages_keep_their_branches() -> None:
    renamed = TREE.renamed({"q": "Q", "a1": "a2", "b": "B"})  # a2 is taken
    assert ids(renamed.with_head("B").branch) == ["Q", "a1", "r", "B"]


def test_merged_tree_has_the_messages_of_both_and_the_other_head() -> None:
    other = rebuilt([message("q", None, "user"), message("a3", "q")], "a3")
    merged = TREE.merged(other)
    assert ids(merged.siblings(merged.messages["a3"])) == ["a1", "a2", "a3"]
    assert ids(merged.branch) == ["q", "a3"]


@given(
    st.lists(st.tuples(IDS, st.none() | IDS), max_size=8),
    st.none() | st.sampled_from("abcdef"),
)
def test_any_list_of_messages_becomes_a_tree(
    described: list[tuple[str, str | None]], head_id: str | None
) -> None:
    tree = rebuilt([message(*names) for names in described], head_id)
    assert set(tree.messages) == {message_id for message_id, _ in described}
    assert fault(list(tree.messages.values()), tree.head_id) is None
    reached = {leaf for start in tree.children(None) for leaf in ids(tree.branch_of(tree.newest_leaf(start)))}
    assert reached <= set(tree.messages) and len(tree.branch) <= len(tree.messages)


def test_fault_says_why_messages_are_no_tree() -> None:
    good = list(TREE.messages.values())
    assert fault(good, "a2") is None and fault([], None) is None
    assert fault([*good, good[0]], "a2") == "messages.5.id, which an earlier message has"
    assert fault(good[1:], "a2") == "messages.0.parent_id, which no earlier message has"
    assert fault(good, "x") == "head_id, which no message has"
