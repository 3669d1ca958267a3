"""Calls as Qwen3-Coder and Qwen3.5 write them: <function=NAME><parameter=KEY>VALUE</parameter></function>."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.engine.grammars.sources import json_rule
from app.engine.tools.parser import CallSink, Schemas
from app.engine.tools.reader import Reader, Reading

_END = "</parameter>"
_LINE_END = f"\n{_END}\n"


@dataclass(frozen=True, slots=True)
class XmlForm:
    """Values of string parameters stream; others are typed at their end, as JSON if they are."""

    marks: tuple[str, ...] = ("<tool_call>", "<function=")

    @property
    def visible(self) -> tuple[str, ...]:
        return ("<tool_call>", "</tool_call>")

    def read(self, reader: Reader, sink: CallSink, mark: str) -> Reading[None]:
        if mark == "<tool_call>":
            yield from reader.skip_space()
            yield from reader.expect("<function=")
        name: list[str] = []
        yield from reader.until(">", name.append)
        sink.begin("".join(name).strip())
        properties = _properties(sink.schemas, "".join(name).strip())
        sink.add("{")
        separator = ""
        while True:
            yield from reader.skip_space()
            if (yield from reader.accepts("</function>")):
                break
            yield from reader.expect("<parameter=")
            key: list[str] = []
            yield from reader.until(">", key.append)
            sink.add(f"{separator}{json.dumps(''.join(key), ensure_ascii=False)}: ")
            yield from _value(reader, sink.add, properties.get("".join(key)))
            separator = ", "
        sink.add("}")
        sink.end()
        yield from reader.skip_space()
        yield from reader.accepts("</tool_call>")

    def lark(self, schemas: Schemas, *, is_parallel: bool) -> str:
        rules = [r'start: one ("\n" one)*' if is_parallel else "start: one"]
        calls = []
        for index, (name, schema) in enumerate(schemas.items()):
            begin = json.dumps(f"\n<function={name}>\n", ensure_ascii=False)
            required = schema.get("required", ()) if isinstance(schema, dict) else ()
            parameters = ["free*"] if schema.get("additionalProperties") is True else []
            for place, (key, value) in enumerate(_properties(schemas, name).items()):
                rule = f"p{index}_{place}"
                rules.append(_parameter(rule, key, value))
                parameters.append(rule if key in required else f"{rule}?")
            end = json.dumps("</function>\n")
            calls.append(f"MARK(<tool_call>) {begin} {' '.join(parameters)} {end} MARK(</tool_call>)")
        rules.append(f"one: {' | '.join(calls)}")
        rules.append(r'free: "<parameter=" /[^>\n]{1,64}/ ">\n" text')
        return "\n".join([*rules, f"text[suffix={json.dumps(_LINE_END)}]: /(?s:.*)/"])


def _parameter(rule: str, key: str, schema: Any) -> str:  # Any: JSON
    begin = json.dumps(f"<parameter={key}>\n", ensure_ascii=False)
    if _is_text(schema):
        return f"{rule}: {begin} text"
    value = json_rule(schema if isinstance(schema, dict) else {})
    return f"{rule}: {begin} v{rule} {json.dumps(_LINE_END)}\nv{rule}: {value}"


def _properties(schemas: Schemas, name: str) -> dict[str, Any]:  # Any: JSON
    schema = schemas[name]
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return properties if isinstance(properties, dict) else {}


def _is_text(schema: Any) -> bool:  # Any: JSON
    return isinstance(schema, dict) and schema.get("type") == "string" and "enum" not in schema


def _value(reader: Reader, emit: Callable[[str], None], schema: Any) -> Reading[None]:  # Any: JSON
    yield from reader.accepts("\n")
    if _is_text(schema):
        emit('"')
        held = _WithoutLastBreak(lambda text: emit(json.dumps(text, ensure_ascii=False)[1:-1]))
        yield from reader.until(_END, held.add)
        emit('"')
        return
    pieces: list[str] = []
    yield from reader.until(_END, pieces.append)
    emit(_as_json("".join(pieces).removesuffix("\n"), schema))


class _WithoutLastBreak:
    """Passes text on without a line break at its very end."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._has_break = False

    def add(self, text: str) -> None:
        if text:
            text = ("\n" if self._has_break else "") + text
            self._has_break = text.endswith("\n")
            self._emit(text.removesuffix("\n"))


def _as_json(text: str, schema: Any) -> str:  # Any: JSON
    """Returns the text if it is JSON, but of a string parameter only if it is a JSON string."""
    try:
        value = json.loads(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    is_string = isinstance(schema, dict) and schema.get("type") == "string"
    return text.strip() if not is_string or isinstance(value, str) else json.dumps(text, ensure_ascii=False)
