"""Strict tools that the model may call of its own accord: text is free, a call that has begun is not."""

import json

import pytest

from app.engine.grammars.compiler import GrammarCompiler
from app.engine.ipc.messages import ChatMessage, Grammar, SamplingParams, Submit, Tool, ToolUse
from app.engine.tokenization.token_bytes import TokenBytes
from app.engine.tools.toolbox import Toolbox
from tests.engine.tiny import TinyModel, shared_grammar_sandbox
from tests.engine.tools.test_toolbox import WEATHER, ask, tool_model

TOOLS = (Tool("weather", "", json.dumps(WEATHER), is_strict=True), Tool("time"))
WRAPPERS = {
    "hermes": '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>',
    "phi": '<|tool_call|>[{"name": "%s", "arguments": %s}]',
    "mistral": '[TOOL_CALLS][{"name": "%s", "arguments": %s}]',
    "mistral names": "[TOOL_CALLS]%s[ARGS]%s",
}
XML = "<tool_call>\n<function=%s>\n%s</function>\n</tool_call>"
PARAMETER = "<parameter=%s>\n%s\n</parameter>\n"


def call(family: str, name: str, **arguments: object) -> str:
    if family == "xml":
        values = [PARAMETER % (key, json.dumps(value)) for key, value in arguments.items()]
        return XML % (name, "".join(values))
    return WRAPPERS[family] % (name, json.dumps(arguments))


@pytest.fixture(scope="module", params=[*WRAPPERS, "xml"])
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def fits(tiny: TinyModel, text: str, form: Grammar | None = None) -> bool:
    """Whether a reply in this form may begin with the text."""
    toolbox = Toolbox(tiny.tokenizer, str(tiny.tokenizer.chat_template))
    tokens = TokenBytes(tiny.tokenizer, len(tiny.tokenizer))
    special = tokens.silent_ids | toolbox.mark_ids
    compiler = GrammarCompiler(tiny.tokenizer, tokens, {1}, special, shared_grammar_sandbox())
    messages = (ChatMessage("user", "hi"),)
    submit = Submit("a", SamplingParams(), messages=messages, tool_use=ToolUse(TOOLS), grammar=form)
    grammar = toolbox.grammar(submit)
    assert grammar is not None
    matcher = compiler.compile(grammar, marks=toolbox.marks)
    return bool(matcher.consume_tokens(tiny.tokenizer.encode(text, add_special_tokens=False)))


def test_text_is_free_and_a_call_that_has_begun_must_validate(family: str) -> None:
    tiny = tool_model(family)
    right = call(family, "weather", city="Paris", days=3)
    for text in (
        'Plain {"name": text} <tool',
        right,
        f"Let me see.\n{right}",
        f"{right}\n{right} Done.",
        call(family, "time", zone="any"),
    ):
        assert fits(tiny, text), text
    for text in (
        call(family, "weather", city="Paris", days=30),
        call(family, "weather", city="Nowhere", days=3),
        f"Let me see. {call(family, 'rm', path='/')}",
        f"{right} And: {call(family, 'weather', city='Rome', days=3)}",
    ):
        assert not fits(tiny, text), text


REFERRING = {"$ref": "#/$defs/w", "$defs": {"w": WEATHER}}  # as Pydantic writes nested classes


@pytest.mark.parametrize(
    "form",
    [
        Grammar("json_schema", json.dumps(WEATHER)),
        Grammar("json_schema", json.dumps(REFERRING)),
        Grammar("json"),
    ],
)
def test_an_answer_in_a_form_may_be_a_call_instead(family: str, form: Grammar) -> None:
    tiny = tool_model(family)
    answer = json.dumps({"city": "Paris", "days": 3})
    assert fits(tiny, answer, form)
    assert fits(tiny, call(family, "weather", city="Paris", days=3), form)
    assert not fits(tiny, call(family, "weather", city="Paris", days=30), form)
    assert not fits(tiny, "Plain text", form)
    assert not fits(tiny, f"{answer} and more", form)


def test_reply_with_strict_tools_may_be_text(family: str) -> None:
    reply = ask(tool_model(family), ToolUse(TOOLS), max_tokens=20)
    assert reply.end is not None and reply.text and not reply.calls
