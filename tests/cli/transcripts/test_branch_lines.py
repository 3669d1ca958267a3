"""The tree of a conversation as lines."""

import pytest
from rich.cells import cell_len

from app.cli.transcripts.branch_lines import MOST_LINES, branch_lines
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage, rebuilt


def said(message_id: str, parent_id: str | None, text: str = "") -> TreeMessage:
    role = "user" if message_id.startswith("q") else "assistant"
    return TreeMessage.model_validate(
        {"id": message_id, "parent_id": parent_id, "role": role, "content": text or message_id}
    )


TREE = rebuilt(
    [
        said("q1", None),
        said("a1", "q1"),
        said("a2", "q1"),
        said("q2", "a1"),
        said("b1", "q2"),
        said("b2", "q2"),
        said("q3", "a1"),
    ],
    "b1",
)


def drawn(tree: ConversationTree, symbols: bool = True, width: int = 80) -> str:
    return "\n".join(
        f"{'*' if line.is_current else ' '} {line.number} {line.stem}{line.text}"
        for line in branch_lines(tree, symbols, width)
    )


def test_tree_is_drawn_with_one_line_for_each_message() -> None:
    assert drawn(TREE) == (
        "* 1 You: q1\n"
        "* 2 ├ Assistant: a1\n"
        "* 4 │ ├ You: q2\n"
        "* 5 │ │ ├ Assistant: b1\n"
        "  6 │ │ └ Assistant: b2\n"
        "  7 │ └ You: q3\n"
        "  3 └ Assistant: a2"
    )


def test_tree_is_drawn_in_ascii() -> None:
    assert drawn(TREE, symbols=False).isascii() and "| `-You: q3" in drawn(TREE, symbols=False)


def test_conversation_without_branches_is_not_indented() -> None:
    tree = rebuilt([said("q1", None), said("a1", "q1"), said("q2", "a1")], "q2")
    assert {line.stem for line in branch_lines(tree, True, 80)} == {""}


def test_long_stretches_without_branches_are_left_out() -> None:
    chain = [said(f"q{n}", f"q{n - 1}" if n else None) for n in range(100)]
    tree = rebuilt([*chain, said("side", "q50")], "q99")
    assert drawn(tree) == (
        "* 1 You: q0\n* None (49 messages)\n* 51 You: q50\n* 52 ├ You: q51\n* None │ (47 messages)\n"
        "* 100 │ You: q99\n  101 └ Assistant: side"
    )


@pytest.mark.parametrize("width", [20, 40, 80])
def test_lines_fit_the_terminal(width: int) -> None:
    deep = [said("q0", None)]
    for n in range(1, 30):
        deep += [said(f"q{n}", f"q{n - 1}", "words " * 50), said(f"x{n}", f"q{n - 1}", "漢字" * 99)]
    lines = branch_lines(rebuilt(deep, "q29"), True, width)
    assert max(cell_len(line.stem + line.text) for line in lines) <= width


def test_huge_number_of_siblings_is_cut_around_the_head() -> None:
    tree = rebuilt([said("q", None), *(said(f"a{n}", "q") for n in range(50_000))], "a30000")
    lines = branch_lines(tree, True, 80)
    assert len(lines) == MOST_LINES + 2 and any(line.is_head for line in lines)
    assert lines[0].text == "(29,901 more lines above)" and lines[-1].text.endswith("more lines below)")
