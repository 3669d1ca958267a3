"""Owns where a reasoning model's thinking ends and its answer begins, in text that comes in pieces."""

from app.engine.ipc.messages import Thinking

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkingSplit:
    """Parts one reply. Only thinking before everything else counts; its marks are no part of anything."""

    def __init__(self, thinking: Thinking = "none") -> None:
        self._state = {"none": "answer", "marked": "undecided", "begun": "thinking"}[thinking]
        self._held = ""
        self._is_beginning = thinking == "begun"  # line breaks here belong to the mark before

    def push(self, text: str) -> tuple[str, str]:
        """The thinking and the answer that have become certain with this piece."""
        thought = ""
        self._held += text
        if self._state == "undecided":
            self._decide()
        if self._state == "thinking":
            thought = self._think()
        if self._state != "answer":
            return thought, ""
        answer, self._held = self._trimmed(self._held), ""
        return thought, answer

    def flush(self) -> tuple[str, str]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _decide(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(_OPEN):
            self._held, self._state, self._is_beginning = begun[len(_OPEN) :], "thinking", True
        elif not _OPEN.startswith(begun):
            self._state = "answer"

    def _think(self) -> str:
        thought, mark, rest = self._held.partition(_CLOSE)
        if mark:
            self._held = rest
            thought = self._trimmed(thought).rstrip("\n")
            self._state, self._is_beginning = "answer", True
            return thought
        keep = len(thought[: len(thought) - _begun(thought)].rstrip("\n"))
        self._held = thought[keep:]
        return self._trimmed(thought[:keep])

    def _trimmed(self, text: str) -> str:
        if self._is_beginning:
            text = text.lstrip("\n")
            self._is_beginning = not text
        return text


def _begun(text: str) -> int:
    """Length of the longest ending that begins the closing mark."""
    return next((n for n in range(min(len(_CLOSE) - 1, len(text)), 0, -1) if _CLOSE.startswith(text[-n:])), 0)
