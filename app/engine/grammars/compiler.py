"""Compiles grammars for one model, within limits, in a thread beside the step loop."""

import logging
from collections import OrderedDict
from collections.abc import Set
from functools import cached_property

from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest
from app.engine.grammars.sandbox import GrammarOutOfBounds, GrammarSandbox
from app.engine.grammars.sources import grammar_text
from app.engine.ipc.messages import Grammar

_log = logging.getLogger(__name__)

_KEPT = 32  # compiled grammars, because a client sends the same one with every request
_LONGEST_REASON = 300  # characters of llguidance's own message
_TOO_MUCH = "response_format takes too long or too much memory to compile"


class GrammarCompiler:
    """Compiles for a model whose logits have `vocabulary` columns. Only one thread may use it."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, stop_ids: Set[int], sandbox: GrammarSandbox
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._stop_ids = stop_ids
        self._sandbox = sandbox
        self._known: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def compile(self, grammar: Grammar, begun: str = "") -> LLMatcher:
        """Returns a matcher for a new reply, or for one that begins with the text `begun`.

        Raises:
            InvalidRequest: the grammar is wrong, not supported or too large, or the text does not fit it.
        """
        if grammar not in self._known:
            self._known[grammar] = self._new(grammar)
        self._known.move_to_end(grammar)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        matcher = self._known[grammar].deep_copy()
        if begun and not matcher.consume_tokens(self.tokenizer.tokenize_str(begun)):
            raise InvalidRequest("the reply so far does not fit response_format")
        return matcher

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        """The model's tokenizer as llguidance needs it. To build it takes a second for a large vocabulary."""
        if not self._tokenizer.is_fast or not self._stop_ids:
            raise InvalidRequest("this model's tokenizer cannot be used with response_format")
        size = max(self._vocabulary, len(self._tokenizer))
        return LLTokenizer(
            self._tokenizer.backend_tokenizer.to_str(), n_vocab=size, eos_token=sorted(self._stop_ids)
        )

    def _new(self, grammar: Grammar) -> LLMatcher:
        text = grammar_text(grammar)
        try:
            wrong = self._sandbox.check(text)
        except GrammarOutOfBounds:
            raise InvalidRequest(_TOO_MUCH, hint="Use a smaller or simpler one.") from None
        if not wrong:
            matcher = LLMatcher(self.tokenizer, text, log_level=0)
            wrong = matcher.get_error()
        if wrong:
            raise InvalidRequest(f"response_format: {reason(wrong)}")
        return matcher


def reason(error: str) -> str:
    """Returns the part of llguidance's message that is for people."""
    text = error.partition("<state>")[0].replace("NoExtensionBias", "no text has this form")
    return " ".join(text.split())[:_LONGEST_REASON]
