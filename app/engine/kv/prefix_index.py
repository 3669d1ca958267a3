"""Finds the cache whose token ids share the longest prefix with a prompt: one radix tree per scope.

The cost of a look-up grows with the prompt's length and with the number of branches on its path through the
tree, not with the number of slots.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Scoped(Protocol):
    """A cache of one sequence. Prompts of other scopes never find it. Each is equal to itself alone."""

    scope: str


C = TypeVar("C", bound=Scoped)


@dataclass(slots=True, eq=False)
class _Node(Generic[C]):
    """A run of ids that all slots below it share."""

    ids: Ids
    parent: "_Node[C] | None"
    children: "dict[int, _Node[C]]" = field(default_factory=dict)  # by first id; last changed last
    slots: dict[C, None] = field(default_factory=dict)  # slots whose ids end with this run; newest last

    def split(self, length: int) -> "_Node[C]":
        """Returns a new parent of this node that has its first `length` ids. This node keeps the others."""
        upper = _Node(self.ids[:length], self.parent)
        self.ids, self.parent = self.ids[length:], upper
        upper.children[int(self.ids[0])] = self
        return upper

    def merge_into_child(self) -> None:
        """Give this node's ids and place to its only child."""
        assert self.parent is not None
        (child,) = self.children.values()
        child.ids, child.parent = np.concatenate((self.ids, child.ids)), self.parent
        self.parent.children[int(self.ids[0])] = child


class PrefixIndex(Generic[C]):
    """The token ids that each slot holds. A slot is only found from its own scope."""

    def __init__(self) -> None:
        self._roots: dict[str, _Node[C]] = {}
        self._ends: dict[C, _Node[C]] = {}  # where each slot's ids end

    def __len__(self) -> int:
        return len(self._ends)

    def put(self, slot: C, ids: Ids) -> None:
        """Record that the slot holds these ids, at least one, instead of those of an earlier call."""
        assert len(ids) > 0
        self.remove(slot)
        node, done = self._roots.setdefault(slot.scope, _Node(ids[:0], None)), 0
        while done < len(ids):
            first = int(ids[done])
            child = node.children.pop(first, None)
            if child is None:
                child = _Node(ids[done:], node)
            elif (common := common_prefix(child.ids, ids[done:])) < len(child.ids):
                child = child.split(common)
            node.children[first] = child
            node, done = child, done + len(child.ids)
        node.slots[slot] = None
        self._ends[slot] = node

    def remove(self, slot: C) -> None:
        """Remove the slot from the index, if it is there."""
        node = self._ends.pop(slot, None)
        if node is None:
            return
        del node.slots[slot]
        while node.parent is not None and not node.slots and not node.children:
            del node.parent.children[int(node.ids[0])]
            node = node.parent
        if node.parent is None:
            if not node.children:
                del self._roots[slot.scope]
        elif not node.slots and len(node.children) == 1:
            node.merge_into_child()

    def longest_prefix(self, ids: Ids, scope: str) -> tuple[C | None, int]:
        """Returns the slot that shares most leading ids with `ids`, and how many; (None, 0) if none does.

        Of several slots, prefers one whose ids end at or soon after the shared prefix, then a newer one.
        """
        root = self._roots.get(scope)
        path = [] if root is None else _path(root, ids)
        return (_newest_slot(path[-1][0]), path[-1][1]) if path else (None, 0)

    def sharing(self, ids: Ids, scope: str) -> Iterator[tuple[C, int]]:
        """Yields each slot that shares leading ids with `ids`, and how many, most first.

        Among slots that share equally many, one whose ids end there comes first, then the newer ones.
        """
        root = self._roots.get(scope)
        path = [] if root is None else _path(root, ids)
        visited: _Node[C] | None = None
        for node, shared in reversed(path):
            yield from ((slot, shared) for slot in _slots_below(node, visited))
            visited = node

    def contained_in(self, slot: C) -> list[C]:
        """Returns the other slots of the index whose ids are the same, or the beginning of this slot's."""
        node: _Node[C] | None = self._ends[slot]
        found: list[C] = []
        while node is not None:
            found += [other for other in node.slots if other is not slot]
            node = node.parent
        return found

    def continuations_of(self, slot: C) -> list[C]:
        """Returns the slots of the index whose ids are this slot's and more."""
        unvisited, found = list(self._ends[slot].children.values()), list[C]()
        while unvisited:
            node = unvisited.pop()
            found += node.slots
            unvisited += node.children.values()
        return found

    def check_integrity(self) -> None:
        """Assert what must always hold; for tests."""
        found = {}
        for scope, root in self._roots.items():
            assert len(root.ids) == 0 and not root.slots and root.children
            unvisited = [root]
            while unvisited:
                node = unvisited.pop()
                assert node is root or node.slots or len(node.children) > 1, "a run that should be merged"
                assert all(slot.scope == scope for slot in node.slots)
                found.update(dict.fromkeys(node.slots, node))
                for first, child in node.children.items():
                    assert child.parent is node and child.ids[0] == first
                    unvisited.append(child)
        assert found == self._ends


def common_prefix(first: Ids, second: Ids) -> int:
    """Returns how many leading ids are equal."""
    length = min(len(first), len(second))
    different = first[:length] != second[:length]
    index = int(different.argmax()) if length else 0
    return index if length and different[index] else length


def _path(root: _Node[C], ids: Ids) -> list[tuple[_Node[C], int]]:
    """Returns the nodes on the way of `ids`, and how many ids each shares. The last may have others, too."""
    path: list[tuple[_Node[C], int]] = []
    node, shared = root, 0
    while shared < len(ids) and (child := node.children.get(int(ids[shared]))) is not None:
        common = common_prefix(child.ids, ids[shared:])
        node, shared = child, shared + common
        path.append((node, shared))
        if common < len(child.ids):
            break
    return path


def _slots_below(node: _Node[C], without: _Node[C] | None) -> Iterator[C]:
    """Yields the slots whose ids begin with the node's, newest first, but not those below `without`."""
    unvisited = [node]
    while unvisited:
        each = unvisited.pop()
        if each is not without:
            yield from reversed(each.slots)
            unvisited += each.children.values()


def _newest_slot(node: _Node[C]) -> C:
    """Follows the newest branches down to the first node where slots end. Returns the newest of them."""
    while not node.slots:
        node = node.children[next(reversed(node.children))]
    return next(reversed(node.slots))
