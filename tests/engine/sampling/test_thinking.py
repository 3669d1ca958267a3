"""The phase of a reply, token by token, and the grammar that begins with its text."""

import re

import pytest
from llguidance import LLTokenizer
from msgspec.structs import replace
from transformers import PreTrainedTokenizerFast

from app.engine.grammars.compiler import GrammarCompiler
from app.engine.grammars.rule import GrammarRule
from app.engine.ipc.messages import (
    ChatMessage,
    Deltas,
    Failed,
    Finished,
    Grammar,
    Outbound,
    SamplingParams,
    Submit,
)
from app.engine.replies.parts import Thinking
from app.engine.sampling.thinking import Phase, ThinkingPhase
from app.engine.tokenization.prompt import PromptBuilder
from app.engine.tokenization.token_bytes import TokenBytes
from tests.engine.tiny import (
    TinyModel,
    configs,
    decode,
    make_tokenizer,
    shared_grammar_sandbox,
    shared_sandbox,
)


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


def thinker(template: str) -> TinyModel:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return TinyModel.build(configs(len(tokenizer))["llama"], tokenizer)


def parts_of(tiny: TinyModel, submit: Submit) -> tuple[dict[str, str], Outbound, int]:
    """The parts of the reply, its end, and how many tokens of thinking it shows."""
    engine = tiny.engine(context_length=1000)
    engine.submit(submit)
    parts: dict[str, str] = {}
    thoughts = 0
    messages: list[Outbound] = []
    while not engine.is_idle:
        messages += engine.step()
    for message in messages:
        for delta in message.items if isinstance(message, Deltas) else ():
            parts[delta.kind] = parts.get(delta.kind, "") + delta.text
            thoughts += len(delta.logprobs) * (delta.kind == "thinking")
    return parts, messages[-1], thoughts


def chat(budget: int, grammar: Grammar | None = None) -> Submit:
    messages = (ChatMessage("user", "the cat"),)
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=1, ignore_eos=True, top_logprobs=0)
    return Submit("a", params, messages=messages, think=True, thinking_budget=budget, grammar=grammar)


OPENED = "{{ messages[0].content }}<think>\n{# enable_thinking </think> #}"


@pytest.mark.parametrize("budget", [0, 1, 7, 30])
@pytest.mark.parametrize("grammar", [None, Grammar("regex", "[0-9]{3}")])
def test_thinking_ends_at_its_budget(budget: int, grammar: Grammar | None) -> None:
    tiny = thinker(OPENED)
    parts, end, thoughts = parts_of(tiny, chat(budget, grammar))
    assert isinstance(end, Finished)
    assert budget < end.usage.reasoning_tokens < end.usage.completion_tokens
    assert thoughts <= budget + 1  # a break of the closing may belong to a broken character before it
    assert parts["text"]
    if grammar is not None:
        assert re.fullmatch("[0-9]{3}", parts["text"])


def test_no_other_rule_keeps_the_thinking_from_its_end() -> None:
    submit = chat(3)
    banned = replace(submit.sampling, bad_words=("</think>",))
    _, end, _ = parts_of(thinker(OPENED), replace(submit, sampling=banned))
    assert isinstance(end, Finished)
    assert 3 < end.usage.reasoning_tokens < end.usage.completion_tokens


def test_thinking_without_a_budget_goes_on() -> None:
    tiny = thinker(OPENED)
    parts, end, _ = parts_of(tiny, replace(chat(0), thinking_budget=None))
    assert set(parts) == {"thinking"}
    assert isinstance(end, Finished)
    assert end.usage.reasoning_tokens == end.usage.completion_tokens


def test_thinking_is_closed_as_the_template_closes_it() -> None:
    closed = "<think>\n\n</think>\n \n"
    template = "{{ messages[0].content }}{% if enable_thinking %}<think>{% else %}" + closed + "{% endif %}"
    builder = PromptBuilder(
        thinker(template).tokenizer, context_length=500, chat_template=None, sandbox=shared_sandbox()
    )
    assert decode(make_thinking_tokenizer(), builder.thinking_end()) == "\n</think>\n \n"


def make_thinking_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def test_budget_is_refused_for_a_model_that_does_not_think() -> None:
    _, end, _ = parts_of(thinker("{{ messages[0].content }}"), replace(chat(3), think=None))
    assert isinstance(end, Failed)
    assert "does not think" in end.message


def test_budget_of_a_thinking_that_is_only_wished_for_does_not_refuse_a_model_without() -> None:
    submit = replace(chat(3), think=None, wants_thinking=True)
    parts, end, _ = parts_of(thinker("{{ messages[0].content }}"), submit)
    assert isinstance(end, Finished) and set(parts) == {"text"}
    _, end, _ = parts_of(thinker(OPENED), submit)
    assert isinstance(end, Finished)
    assert 3 < end.usage.reasoning_tokens < end.usage.completion_tokens
