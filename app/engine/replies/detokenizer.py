"""Turns token ids into text that is safe to show, without broken characters or parts of a stop string.

The work per token is bounded, because only a short window of ids is decoded again.
"""

from collections.abc import Callable, Sequence

from app.engine.replies.stop_strings import StopStrings

_REPLACEMENT = "\ufffd"
# Ids. A character has fewer bytes, so that one broken at the window's edge stays within the context.
_CONTEXT = 8
_LONGEST_INCOMPLETE = 3  # bytes of the longest incomplete character
_WINDOW = 24  # most ids that are decoded at once, except in longer runs of byte tokens

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
        self.length = 0  # characters that have been returned in all

    def follow(self, ids: Sequence[int]) -> None:
        """Makes the text continue that of these ids, which is not returned. Call it before the first push.

        Otherwise some tokenizers decode the first word without its leading space.
        """
        begin = max(len(ids) - _CONTEXT, 0)
        while begin > 0 and ids[begin] in self._byte_ids:
            begin -= 1
        self._window = [token_id for token_id in ids[begin:] if token_id not in self._silent_ids]
        self._shown = len(self._decode(self._window))

    def push(self, token_id: int) -> str:
        """Returns the text that has become final with this id."""
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
        self.length += len(piece)
        self._slide()
        return piece

    def flush(self) -> str:
        """Returns the rest of the text. Call it after the last id."""
        text = self._decode(self._window)
        piece = text[self._shown :]
        self._shown = len(text)
        self.length += len(piece)
        return piece

    def cut(self) -> str:
        """Returns the rest of a text that is cut off here, without an incomplete last character."""
        piece = self._whole_characters()[self._shown :]
        self._shown += len(piece)
        self.length += len(piece)
        return piece

    def _whole_characters(self) -> str:
        text = self._decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return text
        if self._window[-1] not in self._byte_ids:
            return text[:-1]
        # One incomplete character makes a whole run of byte tokens undecodable, so try it without its bytes.
        shorter = (self._decode(self._window[:-count]) for count in range(1, _LONGEST_INCOMPLETE + 1))
        return next((text for text in shorter if not text.endswith(_REPLACEMENT)), text)

    def _slide(self) -> None:
        if len(self._window) < _WINDOW or self._window[-_CONTEXT] in self._byte_ids:
            return
        rest = len(self._decode(self._window)) - self._shown
        self._window = self._window[-_CONTEXT:]
        self._shown = len(self._decode(self._window)) - rest


class ReplyText:
    """Turns the ids of one reply into text, up to the first stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: StopStrings) -> None:
        self._detokenizer = detokenizer
        self._stops = stops

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """Returns the text that can be shown now. With `may_stop` False no stop string ends it yet."""
        text = self._detokenizer.push(token_id)
        return self._stops.push(text) if may_stop else self._stops.flush() + text

    def end(self, token_id: int) -> str:
        """Returns the rest of a reply that this token ended."""
        if self._stops.includes_stop:
            return self._stops.push(self._detokenizer.push(token_id)) + self.flush()
        return self.flush()

    def flush(self) -> str:
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    def cut(self) -> str:
        """Returns the rest of a reply that is cut off here, without an incomplete last character."""
        return self._stops.push(self._detokenizer.cut()) + self._stops.flush()

    @property
    def includes_stop(self) -> bool:
        """Whether the text includes the stop string that ended it."""
        return self._stops.includes_stop

    @property
    def length(self) -> int:
        """The number of characters of all tokens so far, including those held back or cut."""
        return self._detokenizer.length

    @property
    def matched_stop(self) -> str | None:
        """The stop string that was found; None if none was."""
        return self._stops.matched

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found, after which no text follows."""
        return self._stops.found
