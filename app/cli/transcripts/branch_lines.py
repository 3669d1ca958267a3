"""Draws the tree of a conversation as lines, one for each message, with the current branch marked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.cli.output.formatting import first_words
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage

WHOLE = 40  # messages up to which no line is left out
MOST_LINES = 200


@dataclass(frozen=True, slots=True)
class BranchLine:
    """`number` is the message's place in the order of creation; None for a line that stands for messages in
    between."""

    number: int | None
    stem: str  # the lines of the branches, to the left
    text: str
    is_current: bool = False
    is_head: bool = False


@dataclass(frozen=True, slots=True)
class _Node:
    message: TreeMessage
    stem: str


def branch_lines(tree: ConversationTree, symbols: bool, width: int) -> list[BranchLine]:
    """Returns the lines of the tree, each at most `width` cells wide with its stem.

    In a long conversation, messages without branches are left out, and lines that are far from the head.
    """
    numbers = {message_id: number for number, message_id in enumerate(tree.messages, 1)}
    current = {message.id for message in tree.branch}
    lines: list[BranchLine] = []
    left_out: list[_Node] = []
    for node in _nodes(tree, symbols, max(4, width // 3)):
        if len(tree.messages) > WHOLE and not _is_shown(tree, node.message):
            left_out.append(node)
            continue
        lines += _gap(left_out, current)
        left_out = []
        text = first_words(_label(node.message), max(8, width - len(node.stem)))
        message_id = node.message.id
        is_current, is_head = message_id in current, message_id == tree.head_id
        lines.append(BranchLine(numbers[message_id], node.stem, text, is_current, is_head))
    return _around_head(lines)


def _nodes(tree: ConversationTree, symbols: bool, widest: int) -> Iterator[_Node]:
    """Yields the messages from the beginning, each branch as a whole, with their stems."""
    waiting = _below(tree, None, "", symbols)[::-1]
    while waiting:
        message_id, stem, inner = waiting.pop()
        yield _Node(tree.messages[message_id], stem[-widest:])
        waiting += _below(tree, message_id, inner, symbols)[::-1]


def _below(
    tree: ConversationTree, message_id: str | None, stem: str, symbols: bool
) -> list[tuple[str, str, str]]:
    """Returns the children, each with its stem and that of the messages below it."""
    children = tree.children(message_id)
    if len(children) == 1:
        return [(children[0], stem, stem)]
    fork, last, along = ("├ ", "└ ", "│ ") if symbols else ("|-", "`-", "| ")
    found = [(child, stem + fork, stem + along) for child in children[:-1]]
    return [*found, *((child, stem + last, f"{stem}  ") for child in children[-1:])]


def _is_shown(tree: ConversationTree, message: TreeMessage) -> bool:
    """Returns whether the tree branches at the message, or begins or ends there."""
    is_alone = len(tree.children(message.parent_id)) == 1 and len(tree.children(message.id)) == 1
    return not is_alone or message.parent_id is None or message.id == tree.head_id


def _gap(left_out: Sequence[_Node], current: set[str]) -> list[BranchLine]:
    if not left_out:
        return []
    noun = "message" if len(left_out) == 1 else "messages"
    first = left_out[0]
    return [BranchLine(None, first.stem, f"({len(left_out):,} {noun})", first.message.id in current)]


def _around_head(lines: list[BranchLine]) -> list[BranchLine]:
    if len(lines) <= MOST_LINES:
        return lines
    head = next((at for at, line in enumerate(lines) if line.is_head), len(lines))
    first = min(max(0, head - MOST_LINES // 2), len(lines) - MOST_LINES)
    above, below = lines[:first], lines[first + MOST_LINES :]
    return [*_cut(above, "above"), *lines[first : first + MOST_LINES], *_cut(below, "below")]


def _cut(lines: Sequence[BranchLine], where: str) -> list[BranchLine]:
    return [BranchLine(None, "", f"({len(lines):,} more lines {where})")] if lines else []


def _label(message: TreeMessage) -> str:
    speaker = {"user": "You", "tool": "Tool"}.get(message.role) or message.model_name or "Assistant"
    return f"{speaker}: {message.shown}"
