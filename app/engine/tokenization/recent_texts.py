"""Keeps the token ids of texts that were encoded recently, such as the earlier messages of a conversation."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from app.engine.tokenization.direct_calls import EncodeTexts

_MOST_IDS = 500_000  # of four bytes; their texts take as much again


class RecentTexts:
    """Encodes texts with `encode`, and keeps at most `most_ids` ids. Only one thread may use it.

    A text is encoded once in each scope: otherwise the time would tell whether another caller has sent it.
    """

    def __init__(self, encode: EncodeTexts, most_ids: int = _MOST_IDS) -> None:
        self._encode = encode
        self._most_ids = most_ids
        self._kept: OrderedDict[tuple[str, str], Sequence[int]] = (
            OrderedDict()
        )  # by scope and text, newest last
        self._count = 0  # of ids

    def encode(self, texts: Sequence[str], scope: str) -> list[Sequence[int]]:
        """Returns the ids of each text."""
        found = {text: self._kept[scope, text] for text in texts if (scope, text) in self._kept}
        new = list(dict.fromkeys(text for text in texts if text not in found))
        if new:
            found |= {text: array("I", ids) for text, ids in zip(new, self._encode(new), strict=True)}
        for text, ids in found.items():
            self._keep((scope, text), ids)
        return [found[text] for text in texts]

    def _keep(self, key: tuple[str, str], ids: Sequence[int]) -> None:
        if key not in self._kept:
            self._kept[key] = ids
            self._count += len(ids)
        self._kept.move_to_end(key)
        while self._count > self._most_ids:
            _, oldest = self._kept.popitem(last=False)
            self._count -= len(oldest)
