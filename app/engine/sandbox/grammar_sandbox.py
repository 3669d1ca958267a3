"""Checks grammars, which clients may send, in a sandbox."""

from app.engine.sandbox.sandbox import Sandbox

TIME_LIMIT_S = 1.0  # to compile one grammar


class GrammarOutOfBounds(Exception):
    """The grammar took too long to compile, or too much memory."""


class GrammarSandbox(Sandbox):
    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        super().__init__(time_limit_s)

    def check(self, grammar: str) -> str:
        """Returns the error in a grammar in llguidance's form; an empty text if it has none.

        Raises:
            GrammarOutOfBounds.
        """
        answer = self.ask(grammar=grammar)
        if answer is None:
            raise GrammarOutOfBounds
        return answer.get("refused", "")
