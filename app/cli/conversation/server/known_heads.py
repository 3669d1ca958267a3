"""Knows the server's heads that differ from those of the transcript, so that none is taken for a change."""

from app.cli.transcripts.message_tree import ConversationTree


class KnownHeads:
    """Maps heads of a transcript to those of the server's copy."""

    def __init__(self) -> None:
        self._hidden: dict[str | None, str | None] = {}  # system messages at the end, by the one before
        self._accepted: dict[str | None, str | None] = {}  # others to which the server has gone back

    def learn(self, shown_id: str | None, held_id: str | None) -> None:
        """Takes the server's head as it was just read, of which the transcript shows `shown_id`."""
        self._hidden = {} if shown_id == held_id else {shown_id: held_id}
        self._accepted = {}

    def behind(self, message_id: str | None) -> str | None:
        """Returns the system message that follows this message at the end; this one if none does."""
        return self._hidden.get(message_id, message_id)

    def expected(self, head_id: str | None) -> str | None:
        """Returns the head that the server has if nobody has changed it."""
        return self._accepted.get(head_id, self.behind(head_id))

    def accepts(self, tree: ConversationTree, head_id: str | None) -> bool:
        """Returns whether the server's head hides nothing from the user, because the transcript has that
        message, or leaves it out. Then it is the expected one."""
        is_known = head_id is None or head_id in tree.messages or head_id in self._hidden.values()
        if is_known:
            self._accepted[tree.head_id] = head_id
        return is_known
