"""Ends a reply's text at the first stop string, even if the text comes in pieces."""

from collections.abc import Sequence


class StopStrings:
    """Passes text through up to the first stop string, and holds back an ending that may begin one.

    The first stop string is the one that is complete first or, of several, the longest. It does not depend on
    how the text is split into pieces.
    """

    def __init__(self, stops: Sequence[str], *, includes_stop: bool = False) -> None:
        """`includes_stop` says whether the text ends after the stop string, instead of before it."""
        self.includes_stop = includes_stop
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None  # the stop string that ended the text

    @property
    def found(self) -> bool:
        return self.matched is not None

    def push(self, text: str) -> str:
        """Returns the text that can be shown now. After a stop string there is none."""
        if self.found:
            return ""
        text = self._held + text
        cut, self.matched = self._find(text)
        keep = cut if cut is not None else len(text) - partial_match_length(text, self._stops)
        self._held = "" if self.found else text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Returns the text that was held back. Call it after the last piece."""
        text, self._held = self._held, ""
        return text

    def _find(self, text: str) -> tuple[int | None, str | None]:
        """Returns where the text ends, and the stop string that ends it."""
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if not ends:
            return None, None
        end, start, stop = min(ends)
        return (end if self.includes_stop else start), stop


def partial_match_length(text: str, marks: Sequence[str]) -> int:
    """Returns the length of the longest ending of `text` that begins a mark and is not all of it."""
    longest = max((len(mark) for mark in marks), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
