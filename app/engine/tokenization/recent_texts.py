"""Keeps the token ids of texts that were encoded recently, such as the earlier messages of a conversation."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from app.engine.tokenization.direct_calls import EncodeTexts

_MOST_SIZE = 3_000_000  # a unit takes at most about four bytes
_ENTRY = 64  # the size of a text without characters and ids


class RecentTexts:
    """Encodes texts with `encode`, and keeps as many as `most_size` allows. Only one thread may use it.

    The size counts characters, too, because a tokenizer may have one id for any run of unknown ones, or none.

    A text is encoded once in each scope: otherwise the time would tell whether another caller has sent it.
    """

    def __init__(self, encode: EncodeTexts, most_size: int = _MOST_SIZE) -> None:
        self._encode = encode
        self._most_size = most_size
        # By scope and text, the newest last.
        self._kept: OrderedDict[tuple[str, str], Sequence[int]] = OrderedDict()
        self._size = 0

    def encode(self, texts: Sequence[str], scope: str) -> list[Sequence[int]]:
        """Returns the ids of each text."""
        found = {text: self._kept[scope, text] for text in texts if (scope, text) in self._kept}
        new = list(dict.fromkeys(text for text in texts if text not in found))
        if new:
            found |= {text: array("I", ids) for text, ids in zip(new, self._encode(new), strict=True)}
        for text, ids in found.items():
            self._keep((scope, text), ids)
        return [found[text] for text in texts]

    def put(self, text: str, ids: Sequence[int], scope: str) -> None:
        """Let the text have these ids from now on, which are another way to cut it into tokens."""
        if (old := self._kept.pop((scope, text), None)) is not None:
            self._size -= _size(text, old)
        self._keep((scope, text), array("I", ids))

    def _keep(self, key: tuple[str, str], ids: Sequence[int]) -> None:
        if key not in self._kept:
            self._kept[key] = ids
            self._size += _size(key[1], ids)
        self._kept.move_to_end(key)
        while self._size > self._most_size:
            (_, text), oldest = self._kept.popitem(last=False)
            self._size -= _size(text, oldest)


def _size(text: str, ids: Sequence[int]) -> int:
    return _ENTRY + len(text) + len(ids)
