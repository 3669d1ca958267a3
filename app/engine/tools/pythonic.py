"""Calls as Llama 3.2 and models like it write them: [weather(city="Paris", days=3), time()]."""

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.engine.grammars.sources import json_rule
from app.engine.tools.parser import CallSink, Schemas
from app.engine.tools.reader import NotACall, Reader, Reading

ReadCall = Callable[[Reader, CallSink], Reading[None]]

_DEEPEST = 32  # lists and dictionaries within each other
_WORDS = {"True": "true", "False": "false", "None": "null"}
_Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PythonicForm:
    """The arguments become JSON, value by value. Words of JSON, such as true, are read as well."""

    marks: tuple[str, ...] = ("",)

    @property
    def visible(self) -> tuple[str, ...]:
        return ()

    def read(self, reader: Reader, sink: CallSink, mark: str) -> Reading[None]:
        yield from reader.expect("[")
        yield from read_list(reader, sink, read_call)

    def lark(self, schemas: Schemas, *, is_parallel: bool) -> str:
        more = ' (", " one)*' if is_parallel else ""
        rules = [f'start: "[" one{more} "]"']
        calls = []
        for index, (name, schema) in enumerate(schemas.items()):
            arguments, values = _arguments(index, schema if isinstance(schema, dict) else {})
            rules += values
            calls.append(f"{json.dumps(f'{name}(', ensure_ascii=False)} {arguments} {json.dumps(')')}")
        return "\n".join([*rules, f"one: {' | '.join(calls)}"])


def _arguments(call: int, schema: dict[str, Any]) -> tuple[str, list[str]]:  # Any: JSON
    """Returns the grammar of a call's arguments, required ones first, and the rules of their values."""
    properties = schema.get("properties", {})
    needed = [key for key in properties if key in schema.get("required", ())]
    others = [key for key in properties if key not in needed]
    rules, pieces = [], []
    for place, key in enumerate([*needed, *others]):
        value = properties[key] if isinstance(properties[key], dict) else {}
        rules.append(f"v{call}_{place}: {json_rule(value)}")
        pieces.append(f"{json.dumps(f'{key}=', ensure_ascii=False)} v{call}_{place}")
    tail = ""
    for piece in reversed(pieces[len(needed) :]):
        tail = f'(", " {piece} {tail})?'
    if not needed:  # the first of the optional ones has no comma before it
        tail = tail.replace('(", " ', "(", 1)
    separator = ' ", " '
    return f"{separator.join(pieces[: len(needed)])} {tail}", rules


def read_list(reader: Reader, sink: CallSink, read_one: ReadCall) -> Reading[None]:
    """Reads the calls of a list, after its opening bracket. `read_one` reads one of them."""
    while True:
        yield from reader.skip_space()
        yield from read_one(reader, sink)
        yield from reader.skip_space()
        if not (yield from reader.accepts(",")):
            yield from reader.expect("]")
            return


def read_call(reader: Reader, sink: CallSink) -> Reading[None]:
    """Reads one call, such as `weather(city="Paris")`."""
    sink.begin((yield from _name(reader, "(")))
    sink.add("{")
    separator = ""
    while True:
        yield from reader.skip_space()
        if (yield from reader.accepts(")")):
            break
        key = yield from _name(reader, "=")
        sink.add(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        yield from reader.skip_space()
        yield from _value(reader, sink.add, 0)
        yield from reader.skip_space()
        yield from reader.accepts(",")
        separator = ", "
    sink.add("}")
    sink.end()


def _name(reader: Reader, end: str) -> Reading[str]:
    """Reads a name and the character after it. Raises NotACall at the first other character."""
    name = ""
    while not (yield from reader.accepts(end)):
        character = yield from reader.peek()
        if not (character.isalnum() or character in "_-."):
            raise NotACall
        name += character
        reader.at += 1
    return name


def _value(reader: Reader, emit: _Emit, depth: int) -> Reading[None]:
    """Reads a literal of Python, and emits it as JSON."""
    if depth > _DEEPEST:
        raise NotACall
    first = yield from reader.peek()
    if first in "\"'":
        emit(json.dumps((yield from _string(reader, first)), ensure_ascii=False))
    elif first in "[(":
        reader.at += 1
        yield from _items(reader, emit, "])"["[(".index(first)], depth)
    elif first == "{":
        reader.at += 1
        yield from _members(reader, emit, depth)
    else:
        emit((yield from _word(reader)))


def _string(reader: Reader, quote: str) -> Reading[str]:
    begin = reader.at
    reader.at += 1
    while (character := (yield from reader.peek())) != quote:
        reader.at += 1
        if character == "\\":
            yield from reader.peek()
            reader.at += 1
    reader.at += 1
    written = reader.text[begin : reader.at]
    try:
        return str(ast.literal_eval(written.replace("\n", "\\n")))
    except (ValueError, SyntaxError):
        return written[1:-1]


def _items(reader: Reader, emit: _Emit, close: str, depth: int) -> Reading[None]:
    emit("[")
    separator = ""
    while True:
        yield from reader.skip_space()
        if (yield from reader.accepts(close)):
            emit("]")
            return
        emit(separator)
        yield from _value(reader, emit, depth + 1)
        yield from reader.skip_space()
        yield from reader.accepts(",")
        separator = ", "


def _members(reader: Reader, emit: _Emit, depth: int) -> Reading[None]:
    emit("{")
    separator = ""
    while True:
        yield from reader.skip_space()
        if (yield from reader.accepts("}")):
            emit("}")
            return
        quote = yield from reader.peek()
        if quote not in "\"'":
            raise NotACall
        key = yield from _string(reader, quote)
        yield from reader.skip_space()
        yield from reader.expect(":")
        yield from reader.skip_space()
        emit(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        yield from _value(reader, emit, depth + 1)
        yield from reader.skip_space()
        yield from reader.accepts(",")
        separator = ", "


def _word(reader: Reader) -> Reading[str]:
    """Reads a number or a word. One that is no JSON becomes a string."""
    begin = reader.at
    while not ((character := (yield from reader.peek())).isspace() or character in ",)]}"):
        reader.at += 1
    word = reader.text[begin : reader.at]
    if not word:
        raise NotACall
    try:
        json.loads(_WORDS.get(word, word))
    except ValueError:
        return json.dumps(word, ensure_ascii=False)
    return _WORDS.get(word, word)
