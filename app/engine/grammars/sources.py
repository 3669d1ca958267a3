"""Turns the form that a request wants for its reply into a grammar for llguidance."""

import json
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # exists for type checkers only

LONGEST = 200_000  # characters of a grammar
_JSON_OPTIONS: "JsonCompileOptions" = {  # a weak model must not go on with white space for ever
    "whitespace_flexible": True,
    "whitespace_pattern": r"( |\n {0,16})?",
    "coerce_one_of": False,
    "lenient": False,
}


def grammar_text(grammar: Grammar) -> str:
    """Returns the grammar in llguidance's own form, not checked yet. Raises InvalidRequest."""
    if len(grammar.source) > LONGEST:
        raise InvalidRequest(f"response_format has more than {LONGEST:,} characters")
    match grammar.kind:
        case "json_schema":
            return _of_schema(grammar.source)
        case "json":
            return _of_schema("{}")
        case "regex":
            return str(LLMatcher.grammar_from_regex(grammar.source))
        case "choice":
            return _of_choices(grammar.source)
        case "lark":
            return str(LLMatcher.grammar_from_lark(grammar.source))


def _of_schema(source: str) -> str:
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError):
        raise InvalidRequest("response_format: the schema is not JSON, or nested too deeply") from None
    if not isinstance(schema, dict):
        raise InvalidRequest("response_format: the schema must be a JSON object")
    schema.pop("x-guidance", None)  # llguidance's own options, which are ours to choose
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_OPTIONS))
    except ValueError as error:
        raise InvalidRequest(f"response_format: {error}") from error


def json_rule(schema: Any) -> str:  # Any: JSON
    """Returns the right side of a rule of a Lark grammar, for JSON that validates against the schema."""
    return f"%json {json.dumps({**schema, 'x-guidance': _JSON_OPTIONS})}"


def _of_choices(source: str) -> str:
    """Returns a grammar whose texts are one terminal, because the parser is slow with many alternatives."""
    choices = json.loads(source)
    if not choices or not all(choices):
        raise InvalidRequest("response_format: choices must be texts, and at least one")
    texts = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return str(LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}"))
