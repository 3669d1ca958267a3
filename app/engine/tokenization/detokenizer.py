"""Owns the way from token ids to text that is safe to show: no broken characters, no part of a stop string.

Work per token is bounded: only a short window of ids is decoded again. Knows no torch, no requests.
"""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# Ids; more than the bytes of a character, so that what a window's edge breaks stays in its context.
_CONTEXT = 8
_LONGEST_BEGUN = 3  # bytes of a character that is not whole
_WINDOW = 24  # ids decoded at most, byte tokens in a row apart

Decode = Callable[[list[int]], str]


class Detokenizer:
    """Turns ids, one by one, into pieces of text that concatenate to the decoding of all ids."""

    def __init__(
        self,
        decode: Decode,
        *,
        byte_ids: frozenset[int] = frozenset(),
        silent_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`byte_ids` are byte-fallback tokens (`<0x0A>`), decoded in whole runs; `silent_ids` have none."""
        self._decode = decode
        self._byte_ids = byte_ids
        self._silent_ids = silent_ids
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that have been given out

    def follow(self, ids: Sequence[int]) -> None:
        """Before the first push: what comes joins the text of these ids, of which nothing is given out.

        The first word of a text is decoded without its leading space by some tokenizers.
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
            return ""  # one wrong byte later in the run would change how all of it decodes
        text = self._decode(self._window)
        # Bytes that begin a character decode to one replacement character, which may yet become the real one.
        final = len(text) - 1 if text.endswith(_REPLACEMENT) else len(text)
        piece = text[self._shown : final]
        self._shown = max(self._shown, final)
        self._slide()
        return piece

    def flush(self) -> str:
        """What is left when no id follows."""
        text = self._decode(self._window)
        piece = text[self._shown :]
        self._shown = len(text)
        return piece

    def cut(self) -> str:
        """What is left when the text is cut off here, less a last character that has only begun."""
        piece = self._whole_characters()[self._shown :]
        self._shown += len(piece)
        return piece

    def _whole_characters(self) -> str:
        text = self._decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return text
        if self._window[-1] not in self._byte_ids:
            return text[:-1]
        # One byte too many makes all of a run of byte tokens undecodable, so the text is tried without it.
        shorter = (self._decode(self._window[:-count]) for count in range(1, _LONGEST_BEGUN + 1))
        return next((text for text in shorter if not text.endswith(_REPLACEMENT)), text)

    def _slide(self) -> None:
        if len(self._window) < _WINDOW or self._window[-_CONTEXT] in self._byte_ids:
            return
        rest = len(self._decode(self._window)) - self._shown
        self._window = self._window[-_CONTEXT:]
        self._shown = len(self._decode(self._window)) - rest


class StopStrings:
    """Passes text through up to the first stop string, holding back any ending that may begin one.

    The first is the one that is complete first, and the longest of those, however the text was split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of what has been pushed that can be shown; nothing after a stop string was found."""
        if self.found:
            return ""
        text = self._held + text
        cut = self._find(text)
        self.found = cut is not None
        keep = cut if cut is not None else len(text) - self._undecided(text)
        self._held = "" if self.found else text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back, now that no text follows."""
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
    """The text of one reply: ids in, showable text out."""

    def __init__(self, detokenizer: Detokenizer, stops: StopStrings) -> None:
        self._detokenizer = detokenizer
        self._stops = stops

    def push(self, token_id: int) -> str:
        return self._stops.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    def cut(self) -> str:
        """Like flush, where more would have followed: a character that has only begun is left out."""
        return self._stops.push(self._detokenizer.cut()) + self._stops.flush()

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has been met; no text follows."""
        return self._stops.found
