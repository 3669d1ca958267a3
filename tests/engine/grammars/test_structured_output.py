"""Replies have the form of their grammar, whatever shares the batch, with thinking and with speculation."""

import copy
import json
import re
from dataclasses import replace
from random import Random
from typing import Any

import jsonschema
import pytest

from app.engine.core import EngineCore
from app.engine.ipc.messages import (
    ChatMessage,
    Deltas,
    Failed,
    Grammar,
    SamplingParams,
    Submit,
)
from app.engine.speculative.cost import SpeculationCost
from tests.engine.grammars.schemas import random_schema
from tests.engine.tiny import TinyModel, configs, ended, greedy, make_tokenizer, run, token_id

SCHEMAS = [pytest.param(20, id="20"), pytest.param(200, id="200", marks=pytest.mark.slow)]
FREE_SPECULATION = SpeculationCost(row=0.0, draft=0.0)


def ask(
    grammar: Grammar,
    request_id: str = "a",
    prompt: str = "the cat",
    **sampling: Any,  # as SamplingParams types each
) -> Submit:
    params = SamplingParams(**({"max_tokens": 900, "temperature": 0} | sampling))
    return Submit(request_id, params, prompt=prompt, grammar=grammar)


def of_schema(schema: dict[str, Any]) -> Grammar:  # Any: JSON
    return Grammar("json_schema", json.dumps(schema))


@pytest.fixture
def engine(llama: TinyModel) -> EngineCore:
    return llama.engine(context_length=1000, cache_tokens=16_000, speculation_cost=FREE_SPECULATION)


@pytest.mark.parametrize("count", SCHEMAS)
@pytest.mark.parametrize("together", [1, 8])
def test_engine_reply_validates_against_a_random_schema(
    llama: TinyModel, engine: EngineCore, count: int, together: int
) -> None:
    draw = Random(together)
    for begin in range(0, count, together):
        schemas = {str(begin + index): random_schema(draw) for index in range(together)}
        submits = [
            ask(of_schema(schema), name, temperature=draw.choice([0, 1.0]), seed=int(name))
            for name, schema in schemas.items()
        ]
        collected = run(engine, *submits, greedy("plain", "the cat sat", 12))
        for name, schema in schemas.items():
            assert ended(collected, name).finish_reason == "stop", (schema, collected.texts[name])
            jsonschema.validate(json.loads(collected.texts[name]), schema)
        assert collected.texts["plain"] == llama.generate("the cat sat", 12)


def test_engine_speculation_does_not_change_the_reply(llama: TinyModel) -> None:
    """Items are alike, so that prompt look-up proposes many of them, right and wrong."""
    item = {"type": "object", "properties": {"kind": {"enum": ["red", "green"]}}, "required": ["kind"]}
    schema = {"type": "array", "items": item | {"additionalProperties": False}, "minItems": 8, "maxItems": 8}
    for temperature in (0, 0.7):
        submit = ask(of_schema(schema), temperature=temperature, seed=5)
        plain = llama.engine(speculation_rows=0, context_length=1000)
        speculating = llama.engine(speculation_cost=FREE_SPECULATION, context_length=1000)
        slow, fast = run(plain, submit), run(speculating, submit)
        assert slow.texts == fast.texts
        assert speculating.steps < plain.steps
        assert len(json.loads(fast.texts["a"])) == 8


def test_engine_speculation_ends_with_the_grammar(llama: TinyModel) -> None:
    """The prompt goes on after the text of the grammar, and so do the draft tokens."""
    text = "the cat sat on the mat"
    submit = ask(Grammar("choice", json.dumps([text])), prompt=f"{text}, {text}, {text}, {text}, ")
    for rows in (0, 8):
        engine = llama.engine(speculation_rows=rows, speculation_cost=FREE_SPECULATION, context_length=1000)
        collected = run(engine, submit)
        assert collected.texts == {"a": text}
        if rows == 0:
            tokens, steps = ended(collected).usage.completion_tokens, engine.steps
    assert ended(collected).usage.completion_tokens == tokens
    assert engine.steps < steps


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar("regex", "(a|b){3}[0-9]{2}"), "[ab]{3}[0-9]{2}"),
        (Grammar("choice", json.dumps(["yes", "no", 'per"haps\n', "日本"])), 'yes|no|per"haps\n|日本'),
        (Grammar("lark", 'start: "x" pair "y"\npair: /[a-c]/ /[a-c]/'), "x[abc][abc]y"),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_engine_reply_has_the_form(engine: EngineCore, grammar: Grammar, pattern: str, seed: int) -> None:
    collected = run(engine, ask(grammar, temperature=1.5, seed=seed))
    assert re.fullmatch(pattern, collected.texts["a"])
    assert ended(collected).finish_reason == "stop"


def test_engine_any_json_that_ends_is_json(engine: EngineCore) -> None:
    collected = run(
        engine, *(ask(Grammar("json"), str(n), temperature=1.0, seed=n, max_tokens=200) for n in range(24))
    )
    complete = [name for name in collected.ends if ended(collected, name).finish_reason == "stop"]
    assert complete
    for name in complete:
        json.loads(collected.texts[name])


@pytest.mark.parametrize("max_tokens", [1, 5, 12])
def test_engine_reply_cut_by_max_tokens_says_length(engine: EngineCore, max_tokens: int) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 40}}, "required": ["a"]}
    collected = run(engine, ask(of_schema(schema), max_tokens=max_tokens))
    assert ended(collected).finish_reason == "length"
    assert collected.texts["a"].startswith("{")


def test_engine_reply_that_ends_at_its_last_token_says_stop(engine: EngineCore) -> None:
    whole = run(engine, ask(Grammar("choice", '["yes"]')))
    tokens = ended(whole).usage.completion_tokens
    exact = run(engine, ask(Grammar("choice", '["yes"]'), max_tokens=tokens))
    assert exact.texts == whole.texts == {"a": "yes"}
    assert ended(exact).finish_reason == "stop"


def test_engine_white_space_between_tokens_of_json_is_bounded(llama: TinyModel) -> None:
    """Even if white space is all that the model wants."""
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}}}
    spaces = {llama.tokenizer(space).input_ids[0]: 100.0 for space in (" ", "\n", "\t")}
    engine = llama.engine(context_length=1000)
    collected = run(engine, ask(of_schema(schema | {"required": ["a"]}), logit_bias=spaces, max_tokens=200))
    assert ended(collected).finish_reason == "stop"
    assert list(json.loads(collected.texts["a"])) == ["a"]


def test_engine_ignores_bans_that_leave_no_token(engine: EngineCore) -> None:
    """The form wins."""
    collected = run(engine, ask(Grammar("choice", '["yes"]'), bad_words=("y", "e"), min_tokens=20))
    assert collected.texts["a"] == "yes"


@pytest.fixture(scope="module")
def thinker() -> TinyModel:
    """A model whose vocabulary has the marks of thinking."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    return TinyModel.build(configs(len(tokenizer))["llama"], tokenizer)


def with_template(tiny: TinyModel, template: str) -> EngineCore:
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = template
    return replace(tiny, tokenizer=tokenizer).engine(context_length=1000)


def typed(engine: EngineCore, submit: Submit) -> dict[str, str]:
    """The parts of a reply by their kind."""
    engine.submit(submit)
    parts: dict[str, str] = {}
    while not engine.is_idle:
        for message in engine.step():
            assert not isinstance(message, Failed)
            for delta in message.items if isinstance(message, Deltas) else ():
                parts[delta.kind] = parts.get(delta.kind, "") + delta.text
    return parts


def chat(grammar: Grammar, think: bool | None = None, **sampling: Any) -> Submit:  # as in `ask`
    params = SamplingParams(**({"max_tokens": 400, "temperature": 0} | sampling))
    return Submit("a", params, messages=(ChatMessage("user", "the cat"),), grammar=grammar, think=think)


OPENED = "{{ messages[0].content }}<think>{# </think> #}"


def test_engine_form_begins_after_the_thinking(thinker: TinyModel) -> None:
    engine = with_template(thinker, OPENED)
    close = {token_id(thinker.tokenizer, "</think>"): 7.0}
    thoughts = ""
    for seed in range(8):
        grammar = Grammar("regex", "[0-9]{3}")
        submit = chat(grammar, logit_bias=close, temperature=1.0, seed=seed, ignore_eos=True)
        parts = typed(engine, submit)
        assert re.fullmatch("[0-9]{3}", parts["text"])
        thoughts += parts.get("thinking", "")
    assert not re.fullmatch("[0-9]*", thoughts), "thinking has any form"


def test_engine_thinking_that_never_ends_has_no_form(thinker: TinyModel) -> None:
    close = {token_id(thinker.tokenizer, "</think>"): -100.0}
    parts = typed(with_template(thinker, OPENED), chat(Grammar("json"), logit_bias=close, max_tokens=30))
    assert set(parts) == {"thinking"}


@pytest.mark.parametrize("think", [False, None])
def test_engine_form_begins_at_once_after_a_closed_thinking(thinker: TinyModel, think: bool | None) -> None:
    template = "{{ messages[0].content }}{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    parts = typed(with_template(thinker, template), chat(Grammar("choice", '["yes"]'), think))
    assert parts == {"text": "yes"}


def test_engine_continues_a_reply_in_its_form(engine: EngineCore) -> None:
    schema = of_schema(
        {
            "type": "object",
            "properties": {"a": {"type": "string", "maxLength": 5}},
            "required": ["a"],
            "additionalProperties": False,
        }
    )
    messages = (ChatMessage("user", "the cat"), ChatMessage("assistant", '{"a": "ca'))
    params = SamplingParams(max_tokens=100, temperature=0)
    submit = Submit("a", params, messages=messages, grammar=schema, continue_final_message=True)
    rest = run(engine, submit).texts["a"]
    assert list(json.loads('{"a": "ca' + rest)) == ["a"]
    other = (messages[0], ChatMessage("assistant", "Sure! {"))
    refused = run(engine, Submit("a", params, messages=other, grammar=schema, continue_final_message=True))
    failed = refused.ends["a"]
    assert isinstance(failed, Failed) and "does not fit" in failed.message


@pytest.mark.parametrize("text", ["<|end|>", "a <|bos|> b", "<<|end|>|end|>"])
def test_engine_form_may_hold_the_name_of_a_special_token(engine: EngineCore, text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"const": text}}, "required": ["a"]}
    collected = run(engine, ask(of_schema(schema | {"additionalProperties": False})))
    assert json.loads(collected.texts["a"]) == {"a": text}
