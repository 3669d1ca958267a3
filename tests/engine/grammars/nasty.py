"""Schemas and grammars that have brought other servers down, or that are large on purpose."""

from typing import Any

Source = str | dict[str, Any]  # a Lark grammar, or a JSON schema


def _nested(keyword: str, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(depth):
        inner = {"type": "object", "properties": {f"k{level}": schema}, "required": [f"k{level}"]}
        schema = {keyword: [schema, inner]}
    return schema


def _doubling(levels: int) -> dict[str, Any]:
    """Each definition refers to the one before twice."""
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, levels):
        ref = {"$ref": f"#/$defs/d{level - 1}"}
        definitions[f"d{level}"] = {"anyOf": [{"type": "object", "properties": {"a": ref, "b": ref}}, ref]}
    return {"$defs": definitions, "$ref": f"#/$defs/d{levels - 1}"}


def _doubled(name: str, levels: int) -> str:
    """A Lark grammar in which each rule, or terminal, is the next one twice."""
    rules = [f"{name}{level}: {name}{level + 1} {name}{level + 1}" for level in range(levels)]
    return "\n".join([f"start: {name}0", *rules, f'{name}{levels}: "x"'])


MUST_FAIL: dict[str, Source] = {
    "deep oneOf": _nested("oneOf", 8),
    "refers to itself": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "allOf of 500": {
        "allOf": [{"type": "object", "properties": {f"p{n}": {"minimum": n}}} for n in range(500)]
    },
    "tiny multiples": {"type": "number", "multipleOf": 1e-30},
    "deep Lark": "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    "doubling terminals": "start: T0\n"
    + "".join(f"T{n}: T{n + 1} T{n + 1}\n" for n in range(40))
    + 'T40: "x"',
}
MAY_WORK: dict[str, Source] = {
    "deep anyOf": _nested("anyOf", 9),
    "enum of 10,000": {"enum": [f"value number {number}" for number in range(10_000)]},
    "long string": {"type": "string", "minLength": 1_000_000},
    "string of any length": {"type": "string", "maxLength": 10**9},
    "a million items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**5, "maxItems": 10**6},
    "tree": {
        "$defs": {
            "n": {"type": "object", "properties": {"c": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
        },
        "$ref": "#/$defs/n",
    },
    "doubling references": _doubling(30),
    "catastrophic pattern": {"type": "string", "pattern": "^(a+)+$"},
    "nested repetition": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "huge numbers": {"type": "integer", "minimum": 1, "maximum": 10**300},
    "ambiguous Lark": 'start: s\ns: s s s | s s | "a" |',
    "repeated Lark": 'start: ("a" "b"?){1000000}',
    "doubling rules": _doubled("a", 60),
}
