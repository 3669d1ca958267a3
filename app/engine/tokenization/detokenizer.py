"""Turns token ids into text that is safe to show: no broken characters, no part of a stop string.

The work per token is bounded, because only a short window of ids is decoded again.
"""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# Ids; more than a character has bytes, so that a character broken at the window's edge stays in its context.
_CONTEXT = 8
_LONGEST_BEGUN = 3  # bytes of an incomplete character
_WINDOW = 24  # most ids that are decoded at once, except for longer runs of byte tokens

Decode = Callable[[list[int]], str]


class Detokenizer:
    """Turns ids, one by one, into pieces of text that concatenate to the text of all ids."""

    def __init__(
        self,
        decode: Decode,
        *,
        byte_ids: frozenset[int] = frozenset(),
        silent_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`byte_ids` are byte-fallback tokens (`<0x0A>`), decoded in runs; `silent_ids` have no text."""
        self._decode = decode
        self._byte_ids = byte_ids
        self._silent_ids = silent_ids
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that have been returned

    def follow(self, ids: Sequence[int]) -> None:
        """Lets the text continue that of these ids, which is not returned. Call it before the first push.

        Without it some tokenizers decode the first word without its leading space.
        """
        begin = max(len(ids) - _CONTEXT, 0)
        while begin > 0 and ids[begin] in self._byte_ids:
            begin -= 1
        self._window = [token_id for token_id in ids[begin:] if token_id not in self._silent_ids]
        self._shown = len(self._decode(self._window))

    def push(self, token_id: int) -> str:
        """The text that has become final with this id."""
        if token_id in self._silent_ids:
            return ""
        self._window.append(token_id)
        if token_id in self._byte_ids:
            return ""  # an invalid byte later in the run would change the text of the whole run
        text = self._decode(self._window)
        # The first bytes of a character decode to a replacement character, which later bytes may complete.
        final = len(text) - 1 if text.endswith(_REPLACEMENT) else len(text)
        piece = text[self._shown : final]
        self._shown = max(self._shown, final)
        self._slide()
        return piece

    def flush(self) -> str:
        """The rest of the text, if no id follows."""
        text = self._decode(self._window)
        piece = text[self._shown :]
        self._shown = len(text)
        return piece

    def cut(self) -> str:
        """The rest of the text, if it is cut off here, without an incomplete last character."""
        piece = self._whole_characters()[self._shown :]
        self._shown += len(piece)
        return piece

    def _whole_characters(self) -> str:
        text = self._decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return text
        if self._window[-1] not in self._byte_ids:
            return text[:-1]
        # One incomplete character makes a whole run of byte tokens undecodable, so try without its bytes.
        shorter = (self._decode(self._window[:-count]) for count in range(1, _LONGEST_BEGUN + 1))
        return next((text for text in shorter if not text.endswith(_REPLACEMENT)), text)

    def _slide(self) -> None:
        if len(self._window) < _WINDOW or self._window[-_CONTEXT] in self._byte_ids:
            return
        rest = len(self._decode(self._window)) - self._shown
        self._window = self._window[-_CONTEXT:]
        self._shown = len(self._decode(self._window)) - rest


class StopStrings:
    """Passes text through up to the first stop string, and holds back an ending that may begin one.

    The first is the one that is complete first and, of several, the longest, however the text was split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that can be shown now; nothing after a stop string was found."""
        if self.found:
            return ""
        text = self._held + text
        cut = self._find(text)
        self.found = cut is not None
        keep = cut if cut is not None else len(text) - self._undecided(text)
        self._held = "" if self.found else text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """The text that was held back, if none follows."""
        text, self._held = self._held, ""
        return text

    def _find(self, text: str) -> int | None:
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        return min(ends)[1] if ends else None

    def _undecided(self, text: str) -> int:
        """Length of the longest ending of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class ReplyText:
    """Turns the ids of one reply into text, up to the first stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: StopStrings) -> None:
        self._detokenizer = detokenizer
        self._stops = stops

    def push(self, token_id: int) -> str:
        return self._stops.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    def cut(self) -> str:
        """Like flush, without an incomplete last character: for a reply that is cut off."""
        return self._stops.push(self._detokenizer.cut()) + self._stops.flush()

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found, after which no text follows."""
        return self._stops.found
