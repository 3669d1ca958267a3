"""Tries out tokenizers, whose patterns are regular expressions by the authors of models, in a sandbox."""

from collections.abc import Sequence
from typing import Any

from app.engine.sandbox.sandbox import Sandbox

TIME_LIMIT_S = 10.0  # for all texts of one trial; real tokenizers take milliseconds


class TokenizerOutOfBounds(Exception):
    """The patterns took too long, too much memory, or too many steps for their library."""


class TokenizerSandbox(Sandbox):
    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        super().__init__(time_limit_s)

    def try_out(self, parts: dict[str, Any], texts: Sequence[str]) -> None:  # any JSON
        """Encodes and decodes the texts with the parts of a tokenizer.json that contain patterns.

        Raises:
            TokenizerOutOfBounds.
        """
        answer = self.ask(tokenizer=parts, texts=list(texts))
        if answer is None or "text" not in answer:
            raise TokenizerOutOfBounds
