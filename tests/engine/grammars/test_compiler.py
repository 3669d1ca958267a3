"""Grammars that are wrong, unsupported or too large are refused in time, and say why."""

import json
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from app.core.errors import InvalidRequest
from app.engine.grammars.compiler import GrammarCompiler
from app.engine.grammars.sources import LONGEST, grammar_text
from app.engine.ipc.messages import Failed, Grammar, SamplingParams, Submit
from app.engine.sandbox.grammar_sandbox import GrammarOutOfBounds, GrammarSandbox
from app.engine.tokenization.token_bytes import TokenBytes
from tests.engine.grammars.nasty import MAY_WORK, MUST_FAIL
from tests.engine.tiny import TinyModel, ended, greedy, make_tokenizer, run, shared_grammar_sandbox

SLOW = Grammar("json_schema", json.dumps({"properties": {f"p{n}": {} for n in range(8000)}}))


def compiler(sandbox: GrammarSandbox | None = None) -> GrammarCompiler:
    tokenizer = make_tokenizer()
    tokens = TokenBytes(tokenizer, len(tokenizer))
    return GrammarCompiler(tokenizer, tokens, {1}, {0, 1}, sandbox or shared_grammar_sandbox())


@pytest.mark.parametrize(("name", "is_usable"), [("<0xZZ>", True), ("a" * 2000, False)])
def test_strange_token_keeps_no_model_from_being_served(name: str, is_usable: bool) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([name])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = state["added_tokens"].pop()  # an ordinary token, not an added one
    state["model"]["vocab"][name] = added["id"]
    backend = Tokenizer.from_str(json.dumps(state))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    tokens = TokenBytes(tokenizer, len(tokenizer))
    assert len(tokens.all()) == len(tokenizer)
    compiling = GrammarCompiler(tokenizer, tokens, {1}, {0, 1}, shared_grammar_sandbox())
    if is_usable:
        compiling.compile(Grammar("regex", "a+"))
        return
    with pytest.raises(InvalidRequest, match="cannot be used with a grammar"):
        compiling.compile(Grammar("regex", "a+"))


@pytest.mark.parametrize(
    ("grammar", "part"),
    [
        (Grammar("json_schema", "[1]"), "must be a JSON object"),
        (Grammar("json_schema", "{"), "not JSON"),
        (Grammar("json_schema", '{"a":' * 5000 + "1" + "}" * 5000), "nested too deeply|recursion"),
        (Grammar("json_schema", '{"type": "string", "format": "nope"}'), "Unknown format: nope"),
        (Grammar("json_schema", '{"type": "array", "uniqueItems": true}'), "uniqueItems"),
        (Grammar("json_schema", '{"$ref": "http://127.0.0.1:1/a.json"}'), "127.0.0.1"),
        (Grammar("json_schema", '{"$ref": "file:///etc/passwd"}'), "passwd"),
        (Grammar("json_schema", '{"$ref": "#"}'), "no text has this form"),
        (Grammar("json_schema", '{"type": "string", "pattern": "(?=a)b"}'), "look-around"),
        (Grammar("json_schema", '{"x-guidance": {"lenient": true}, "uniqueItems": true}'), "uniqueItems"),
        (Grammar("regex", "("), "unclosed group"),
        (Grammar("choice", "[]"), "at least one"),
        (Grammar("choice", '[""]'), "at least one"),
        (Grammar("lark", "foo bar"), "Expected token"),
        (Grammar("lark", "x" * (LONGEST + 1)), "more than"),
    ],
)
def test_compiler_says_which_part_is_wrong(grammar: Grammar, part: str) -> None:
    with pytest.raises(InvalidRequest, match=part):
        compiler().compile(grammar)


def test_compiler_kills_a_grammar_that_takes_too_long() -> None:
    sandbox = GrammarSandbox(time_limit_s=0.3)
    with pytest.raises(GrammarOutOfBounds):
        sandbox.check(grammar_text(SLOW))
    with pytest.raises(InvalidRequest, match="takes too long"):
        compiler(sandbox).compile(SLOW)
    patient = GrammarSandbox(time_limit_s=30)
    assert patient.check("start: /a/") == ""
    assert "unclosed" in patient.check("start: /(/")
    patient.close()


def test_compiler_compiles_a_grammar_again_for_another_scope() -> None:
    sandbox = GrammarSandbox()
    compiling, grammar = compiler(sandbox), Grammar("choice", '["yes", "no"]')
    for scope, is_compiled in (("alice", True), ("alice", False), ("bob", True), ("bob", False)):
        sandbox.close()
        children = len(psutil.Process().children())
        compiling.compile(grammar, scope=scope)
        assert (len(psutil.Process().children()) > children) == is_compiled, scope
    sandbox.close()


def test_compiler_compiles_an_equal_grammar_once() -> None:
    sandbox = GrammarSandbox(time_limit_s=30)
    one = compiler(sandbox)
    first = one.compile(Grammar("regex", "a+"))
    assert first.consume_token(make_tokenizer()("a").input_ids[0])
    sandbox.close()
    children = len(psutil.Process().children())
    second = one.compile(Grammar("regex", "a+"))
    assert len(psutil.Process().children()) == children, "the sandbox was not needed again"
    assert not second.is_accepting(), "it begins anew"


@pytest.mark.parametrize("name", MUST_FAIL)
def test_engine_refuses_nasty_grammars_and_serves_the_others(llama: TinyModel, name: str) -> None:
    collected = run(llama.engine(), submit(MUST_FAIL[name]), greedy("plain", "the cat"))
    failed = collected.ends["a"]
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_request"
    assert "response_format" in failed.message
    assert collected.texts["plain"] == llama.generate("the cat", 24)


@pytest.mark.parametrize("name", MAY_WORK)
def test_engine_survives_nasty_grammars(llama: TinyModel, name: str) -> None:
    collected = run(llama.engine(), submit(MAY_WORK[name]), greedy("plain", "the cat"))
    end = collected.ends["a"]
    assert end.code == "invalid_request" if isinstance(end, Failed) else ended(collected).finish_reason
    assert collected.texts["plain"] == llama.generate("the cat", 24)


def submit(source: str | dict[str, Any]) -> Submit:  # Any: JSON
    """A schema, or a Lark grammar as text."""
    grammar = (
        Grammar("lark", source) if isinstance(source, str) else Grammar("json_schema", json.dumps(source))
    )
    return Submit(
        "a", SamplingParams(max_tokens=50, temperature=1.0, seed=1), prompt="the cat", grammar=grammar
    )
