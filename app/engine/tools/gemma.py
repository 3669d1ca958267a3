"""Calls as Gemma 4 writes them: call:NAME{key:<|"|>text<|"|>,number:1}."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.tools.parser import CallSink, Schemas
from app.engine.tools.reader import NotACall, Reader, Reading

_QUOTE = '<|"|>'
_Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GemmaForm:
    """The arguments become JSON while they stream."""

    marks: tuple[str, ...] = ("<|tool_call>",)

    @property
    def visible(self) -> tuple[str, ...]:
        return ("<|tool_call>", "<tool_call|>", _QUOTE)

    def read(self, reader: Reader, sink: CallSink, mark: str) -> Reading[None]:
        yield from reader.skip_space()
        yield from reader.expect("call:")
        name: list[str] = []
        yield from reader.until("{", name.append)
        sink.begin("".join(name).strip())
        yield from _members(reader, sink.add)
        sink.end()
        yield from reader.skip_space()
        yield from reader.accepts("<tool_call|>")

    def lark(self, schemas: Schemas, *, is_parallel: bool) -> str:
        """The names are constrained, and the form of the arguments; their types are not."""
        names = " | ".join(json.dumps(f"call:{name}", ensure_ascii=False) for name in schemas)
        return "\n".join(
            (
                f"start: one{'+' if is_parallel else ''}",
                f"one: MARK(<|tool_call>) ({names}) object MARK(<tool_call|>)",
                'object: "{" (member ("," member)*)? "}"',
                'member: KEY ":" value',
                'array: "[" (value ("," value)*)? "]"',
                "value: text | object | array | NUMBER | WORD",
                f"text: MARK({_QUOTE}) TEXT MARK({_QUOTE})",
                "KEY: /[A-Za-z_][A-Za-z0-9_]{0,63}/",
                "NUMBER: /-?(0|[1-9][0-9]{0,15})(\\.[0-9]{1,15})?/",
                'WORD: "true" | "false" | "null"',
                "TEXT: /(?s:[^<]*)/",
            )
        )


def _members(reader: Reader, emit: _Emit) -> Reading[None]:
    """Reads an object after its opening brace."""
    emit("{")
    while True:
        yield from reader.skip_space()
        if (yield from reader.accepts("}")):
            emit("}")
            return
        key: list[str] = []
        yield from reader.until(":", key.append)
        name = "".join(key).strip().removeprefix(_QUOTE).removesuffix(_QUOTE)
        emit(json.dumps(name, ensure_ascii=False) + ": ")
        yield from _value(reader, emit)
        yield from _comma(reader, emit, "}")


def _value(reader: Reader, emit: _Emit) -> Reading[None]:
    yield from reader.skip_space()
    if (yield from reader.accepts(_QUOTE)):
        emit('"')
        yield from reader.until(_QUOTE, lambda text: emit(json.dumps(text, ensure_ascii=False)[1:-1]))
        emit('"')
    elif (yield from reader.accepts("{")):
        yield from _members(reader, emit)
    elif (yield from reader.accepts("[")):
        yield from _items(reader, emit)
    else:
        pieces: list[str] = []
        yield from reader.value(pieces.append)
        emit(_scalar("".join(pieces)))


def _items(reader: Reader, emit: _Emit) -> Reading[None]:
    emit("[")
    while True:
        yield from reader.skip_space()
        if (yield from reader.accepts("]")):
            emit("]")
            return
        yield from _value(reader, emit)
        yield from _comma(reader, emit, "]")


def _comma(reader: Reader, emit: _Emit, close: str) -> Reading[None]:
    yield from reader.skip_space()
    if (yield from reader.accepts(",")):
        emit(", ")
    elif (yield from reader.peek()) != close:
        raise NotACall


def _scalar(text: str) -> str:
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    return text
