"""Translates the form that a request demands of a reply into the engine's terms."""

import json

from app.engine.ipc.messages import Grammar
from app.models.schemas import (
    ChoiceFormat,
    JsonFormat,
    JsonSchemaFormat,
    LarkFormat,
    RegexFormat,
    ResponseFormat,
)


def grammar_of(response_format: ResponseFormat | None) -> Grammar | None:
    """Returns the grammar of the reply's text; None if it has any form."""
    match response_format:
        case None:
            return None
        case JsonSchemaFormat(json_schema=schema):
            return Grammar("json_schema", json.dumps(schema))
        case JsonFormat():
            return Grammar("json")
        case RegexFormat(pattern=pattern):
            return Grammar("regex", pattern)
        case ChoiceFormat(choices=choices):
            return Grammar("choice", json.dumps(choices))
        case LarkFormat(grammar=grammar):
            return Grammar("lark", grammar)
