"""Random JSON schemas of bounded size, whose texts a model with random weights completes soon."""

from random import Random
from typing import Any

Schema = dict[str, Any]  # Any: JSON


def random_schema(draw: Random, depth: int = 2) -> Schema:
    """Returns a schema of an object."""
    names = draw.sample(("name", "age", "tags", "where", "is_ok", "größe", "a b", "x"), draw.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: _value(draw, depth) for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
        "additionalProperties": False,
    }


def _value(draw: Random, depth: int) -> Schema:
    kinds = [_string, _integer, _number, _enum, _const, _boolean, _pattern, _format]
    if depth > 0:
        kinds += [_array, _any_of, lambda draw, depth: random_schema(draw, depth - 1)]
    return draw.choice(kinds)(draw, depth)


def _string(draw: Random, depth: int) -> Schema:
    least = draw.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 6)}


def _integer(draw: Random, depth: int) -> Schema:
    least = draw.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "maximum": least + draw.randint(0, 500)}


def _number(draw: Random, depth: int) -> Schema:
    return {"type": "number", "minimum": 0, "maximum": draw.choice([1, 10, 99]), "multipleOf": 0.25}


def _enum(draw: Random, depth: int) -> Schema:
    return {"enum": draw.sample(["red", "green", 1, None, True, 2.5, "a\nb"], draw.randint(1, 5))}


def _const(draw: Random, depth: int) -> Schema:
    return {"const": draw.choice(["fixed", 7, {"a": [1]}, None])}


def _boolean(draw: Random, depth: int) -> Schema:
    return {"type": ["boolean", "null"]}


def _pattern(draw: Random, depth: int) -> Schema:
    return {"type": "string", "pattern": draw.choice(["^[a-f]{2,5}$", "^(yes|no)$", r"^\d{3}-\d{2}$"])}


def _format(draw: Random, depth: int) -> Schema:
    return {"type": "string", "format": draw.choice(["date", "ipv4", "uuid"])}


def _array(draw: Random, depth: int) -> Schema:
    least = draw.randint(0, 2)
    items = _value(draw, depth - 1)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + draw.randint(0, 2)}


def _any_of(draw: Random, depth: int) -> Schema:
    return {"anyOf": [_value(draw, depth - 1) for _ in range(draw.randint(1, 3))]}
