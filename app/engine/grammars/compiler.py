"""Compiles grammars for one model, within limits, in a thread beside the step loop."""

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Set
from types import MappingProxyType

from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest
from app.engine.grammars.sources import grammar_text
from app.engine.grammars.tokenizer import grammar_tokenizer
from app.engine.ipc.messages import Grammar
from app.engine.sandbox.grammar_sandbox import GrammarOutOfBounds, GrammarSandbox
from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.token_bytes import TokenBytes

_log = logging.getLogger(__name__)

_KEPT = 32  # compiled grammars, because a client sends the same one with every request
_LONGEST_REASON = 300  # characters of llguidance's own message
_TOO_MUCH = "the grammar takes too long or too much memory to compile"
Marks = Mapping[str, int | None]
NO_MARKS: Marks = MappingProxyType({})


class GrammarCompiler:
    """Compiles for one model. Only one thread may use it. The `special_ids` have no text for a grammar."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tokens: TokenBytes,
        stop_ids: Set[int],
        special_ids: Set[int],
        sandbox: GrammarSandbox,
        calls: BoundedCalls | None = None,
    ) -> None:
        calls = BoundedCalls() if calls is None else calls
        # Built while the model loads: for a large vocabulary it takes a second, holding the interpreter lock,
        # so the first grammar would stall the replies of others.
        self._tokenizer: LLTokenizer | None = None
        if tokenizer.is_fast and stop_ids:
            try:
                self._tokenizer = grammar_tokenizer(tokenizer, tokens, stop_ids, special_ids, calls)
            except InvalidRequest:
                _log.warning(
                    "this model's replies can have no grammar, because llguidance refuses its tokens"
                )
        self._sandbox = sandbox
        self._known: OrderedDict[tuple[str, Grammar], LLMatcher] = OrderedDict()  # by scope and grammar

    def compile(
        self, grammar: Grammar, begun: str = "", marks: Marks = NO_MARKS, *, scope: str = ""
    ) -> LLMatcher:
        """Returns a matcher for a new reply, or for one that begins with the text `begun`.

        A grammar is compiled once in each scope: otherwise the time would tell whether another caller has
        sent the same one.

        In a grammar with `marks`, which is the engine's own, each `MARK(text)` is a token, or else its text.

        Raises:
            InvalidRequest: the grammar is wrong, not supported or too large, or the text does not fit it.
        """
        known = (scope, grammar)
        if known not in self._known:
            self._known[known] = self._new(grammar, marks)
        self._known.move_to_end(known)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        matcher = self._known[known].deep_copy()
        if begun and not matcher.consume_tokens(self.tokenizer.greedy_tokenize(begun)):
            raise InvalidRequest("the reply so far does not fit response_format")
        return matcher

    @property
    def tokenizer(self) -> LLTokenizer:
        """The model's tokenizer as llguidance needs it. Raises InvalidRequest."""
        if self._tokenizer is None:
            raise InvalidRequest("this model's tokenizer cannot be used with a grammar")
        return self._tokenizer

    def _new(self, grammar: Grammar, marks: Marks) -> LLMatcher:
        field = "tools" if marks else "response_format"
        try:
            wrong = self._sandbox.check(grammar_text(_with_marks(grammar, dict.fromkeys(marks))))
        except GrammarOutOfBounds:
            raise InvalidRequest(f"{field}: {_TOO_MUCH}", hint="Use a smaller or simpler one.") from None
        if not wrong:
            text = grammar_text(_with_marks(grammar, marks))
            matcher = LLMatcher(self.tokenizer, text, log_level=0)
            wrong = matcher.get_error()
        if wrong:
            raise InvalidRequest(f"{field}: {reason(wrong)}")
        return matcher


def _with_marks(grammar: Grammar, marks: Marks) -> Grammar:
    """Returns the grammar with tokens and texts in the places of its marks."""
    source = grammar.source
    for text, token_id in marks.items():
        written = json.dumps(text) if token_id is None else f"<[{token_id}]>"
        source = source.replace(f"MARK({text})", written)
    return Grammar(grammar.kind, source)


def reason(error: str) -> str:
    """Returns the part of llguidance's message that is for people."""
    text = error.partition("<state>")[0].replace("NoExtensionBias", "no text has this form")
    return " ".join(text.split())[:_LONGEST_REASON]
