"""The translation of a request's terms into the engine's."""

import pytest

from app.engine.ipc.messages import Grammar
from app.models.chat.engine_terms import grammar_of
from app.models.schemas import (
    ChoiceFormat,
    JsonFormat,
    JsonSchemaFormat,
    LarkFormat,
    RegexFormat,
    ResponseFormat,
)


@pytest.mark.parametrize(
    ("wanted", "grammar"),
    [
        (None, None),
        (JsonFormat(type="json"), Grammar("json")),
        (
            JsonSchemaFormat(type="json_schema", schema={"type": "object"}),
            Grammar("json_schema", '{"type": "object"}'),
        ),
        (RegexFormat(type="regex", pattern="a+"), Grammar("regex", "a+")),
        (ChoiceFormat(type="choice", choices=["a", "b"]), Grammar("choice", '["a", "b"]')),
        (LarkFormat(type="lark", grammar='start: "a"'), Grammar("lark", 'start: "a"')),
    ],
    ids=["none", "json", "schema", "regex", "choice", "lark"],
)
def test_form_of_the_reply_becomes_a_grammar(wanted: ResponseFormat | None, grammar: Grammar | None) -> None:
    assert grammar_of(wanted) == grammar
