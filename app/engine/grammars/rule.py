"""Keeps the text of one reply within its grammar: masks the tokens that cannot come next."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray
from torch import Tensor

from app.engine.grammars.compiler import reason
from app.engine.sampling.thinking import ThinkingPhase

_USUAL_MASK_S = 0.01
_SLOW_LIMIT_S = 2.0  # which all masks of a reply together may take beyond the usual time

Mask = NDArray[np.bool_]


class GrammarRule:
    """A LogitRule. The grammar begins after the thinking, which `open_ids` may begin.

    After the thinking, one of the `break_ids` may come first. `prepare` computes masks while the model
    computes logits; a mask that is missing is computed when it is needed.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        tokenizer: LLTokenizer,
        thinking: ThinkingPhase,
        *,
        open_ids: Sequence[int] = (),
        break_ids: Sequence[int] = (),
    ) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._thinking = thinking
        self._open_ids, self._break_ids = list(open_ids), list(break_ids)
        self._may_break = False
        self._bits = allocate_token_bitmask(1, tokenizer.vocab_size)
        self._masks: list[Mask] = []
        self._slow_s = 0.0
        self.is_complete = False  # nothing can follow the text
        self.failure: str | None = None  # the reason why the reply cannot go on
        if thinking.phase == "undecided" and not open_ids:
            thinking.skip()

    @property
    def is_active(self) -> bool:
        return self._thinking.phase != "thinking" and self.failure is None

    def prepare(self, draft_ids: Sequence[int]) -> None:
        """Compute the masks of the next token, and of those after each draft id that fits the grammar."""
        self._masks = []
        if self._thinking.phase != "text" or self.is_complete or self.failure is not None:
            return
        self._masks.append(self._next_mask())
        consumed = 0
        for draft_id in draft_ids:
            if self._matcher.validate_tokens([draft_id]) == 0 or not self._matcher.consume_token(draft_id):
                break
            consumed += 1
            if self._matcher.is_stopped():
                break
            self._masks.append(self._next_mask())
        self._matcher.rollback(consumed)

    def apply(self, logits: Tensor) -> None:
        """Set the logits of all tokens that cannot come next to minus infinity."""
        mask = self._masks.pop(0) if self._masks else self._next_mask()
        allowed = torch.from_numpy(mask).to(logits.device)
        if self._thinking.phase == "undecided":
            allowed[self._open_ids] = True
        elif self._may_break:
            allowed[self._break_ids] = True
        known = min(len(logits), len(allowed))
        if self.failure is None and not bool(allowed[:known].any()):
            self.failure = "no token of this model continues the text in the form of response_format"
        if self.failure is None:
            logits[known:] = -torch.inf
            logits[:known].masked_fill_(~allowed[:known], -torch.inf)

    def take(self, token: int) -> None:
        """Note the token that was drawn."""
        phase = self._thinking.phase
        if phase == "thinking":
            self._thinking.take(token)
            if self._thinking.phase == "text":
                self._begin_text(self._thinking.rest.lstrip(b"\n"))
            return
        if phase == "undecided":
            if token in self._open_ids:
                self._thinking.take(token)
                return
            self._thinking.skip()
        may_break, self._may_break = self._may_break, False
        if not (may_break and token in self._break_ids) and not self.is_complete:
            self._consume(token)

    def give_up(self, reason: str) -> None:
        """End the reply for this reason. The grammar is not used any more."""
        self.failure = self.failure or reason

    def _begin_text(self, text: bytes) -> None:
        """The thinking has ended. `text` is the rest of the token after its closing mark."""
        self._may_break = not text
        for token in self._tokenizer.greedy_tokenize(text.decode("utf-8", "ignore")):
            self._consume(token)

    def _consume(self, token: int) -> None:
        if self.failure is None and not self._matcher.consume_token(token):
            self._fail()
        self.is_complete = self.failure is None and self._matcher.is_stopped()

    def _next_mask(self) -> Mask:
        begun = time.monotonic()
        fill_next_token_bitmask(self._matcher, self._bits)
        self._slow_s += max(time.monotonic() - begun - _USUAL_MASK_S, 0.0)
        if self._matcher.is_error():
            self._fail()
        elif self._slow_s > _SLOW_LIMIT_S:
            self.failure = "response_format takes too long to apply; use a simpler one"
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._tokenizer.vocab_size]
        return bits.astype(np.bool_)

    def _fail(self) -> None:
        if self.failure is None:
            self.failure = f"response_format: {reason(self._matcher.get_error())}"
