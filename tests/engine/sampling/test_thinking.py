"""The phase of a reply, token by token, and the grammar that begins with its text."""

import pytest
from llguidance import LLTokenizer

from app.engine.grammars.compiler import GrammarCompiler
from app.engine.grammars.rule import GrammarRule
from app.engine.ipc.messages import Grammar
from app.engine.replies.parts import Thinking
from app.engine.sampling.thinking import Phase, ThinkingPhase
from app.engine.tokenization.token_bytes import TokenBytes
from tests.engine.tiny import make_tokenizer, shared_grammar_sandbox


@pytest.mark.parametrize(
    ("thinking", "text", "phase", "rest"),
    [
        ("none", "<think>", "text", b""),
        ("marked", "", "undecided", b""),
        ("marked", "\n <thi", "undecided", b""),
        ("marked", "<thing", "text", b""),
        ("marked", "<think>the cat", "thinking", b""),
        ("marked", "<think>the cat</think", "thinking", b""),
        ("marked", "<think>the cat</think>", "text", b""),
        ("opened", "the </cat> <", "thinking", b""),
        ("opened", "the </cat> </think>the cat", "text", b""),
    ],
)
def test_phase_follows_the_marks(thinking: Thinking, text: str, phase: Phase, rest: bytes) -> None:
    tokenizer = make_tokenizer()
    followed = ThinkingPhase(thinking, TokenBytes(tokenizer, len(tokenizer)))
    for token in tokenizer(text).input_ids if text else ():
        followed.take(token)
    assert (followed.phase, followed.rest) == (phase, rest)


@pytest.mark.parametrize(("after", "is_complete"), [("a1", True), ("a", False)])
def test_rule_reads_the_text_in_the_token_that_closed_the_thinking(after: str, is_complete: bool) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f">{after}"])
    tokens = TokenBytes(tokenizer, len(tokenizer))
    compiler = GrammarCompiler(tokenizer, tokens, {1}, {0, 1}, shared_grammar_sandbox())
    matcher = compiler.compile(Grammar("regex", "a1"))
    assert isinstance(compiler.tokenizer, LLTokenizer)
    rule = GrammarRule(matcher, compiler.tokenizer, ThinkingPhase("opened", tokens))
    for token in tokenizer(f"the cat</think>{after}").input_ids:
        assert not rule.is_complete
        rule.take(token)
    assert rule.failure is None
    assert rule.is_complete == is_complete
