"""The forms in which families of models write tool calls, and which of them a model uses."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.engine.grammars.sources import json_rule
from app.engine.tools.gemma import GemmaForm
from app.engine.tools.parser import CallForm, CallSink, Schemas
from app.engine.tools.pythonic import PythonicForm, read_call, read_list
from app.engine.tools.reader import NotACall, Reader, Reading
from app.engine.tools.xml import XmlForm

_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class JsonForm:
    """A JSON object with name and arguments, or a list of them, after a mark: Hermes, Qwen, Llama, Phi.

    A `separator` between objects takes the place of a list.
    """

    marks: tuple[str, ...]
    close: str = ""
    arguments: str = "arguments"
    separator: str = ""
    is_list: bool = False  # as the model's own template writes it
    reads_python: bool = False  # whether a list may also be one of calls as Python writes them

    @property
    def visible(self) -> tuple[str, ...]:
        return (*(mark for mark in self.marks if mark), self.close)

    def read(self, reader: Reader, sink: CallSink, mark: str) -> Reading[None]:
        yield from reader.skip_space()
        if (yield from reader.accepts("[")):
            yield from self._list(reader, sink)
        else:
            yield from self._separated(reader, sink)
        if self.close:
            yield from reader.skip_space()
            yield from reader.accepts(self.close)

    def _separated(self, reader: Reader, sink: CallSink) -> Reading[None]:
        yield from _call(reader, sink)
        while self.separator:
            yield from reader.skip_space()
            if not (yield from reader.accepts(self.separator)):
                return
            yield from reader.skip_space()
            yield from _call(reader, sink)

    def _list(self, reader: Reader, sink: CallSink) -> Reading[None]:
        yield from reader.skip_space()
        is_python = self.reads_python and (yield from reader.peek()) != "{"
        yield from read_list(reader, sink, read_call if is_python else _call)

    def lark(self, schemas: Schemas, *, is_parallel: bool) -> str:
        call = {"anyOf": [self._schema(name, schema) for name, schema in schemas.items()]}
        mark = "" if "" in self.marks else f"MARK({self.marks[0]}) "
        if self.is_list:
            calls: dict[str, Any] = {"type": "array", "items": call, "minItems": 1}  # Any: JSON
            if not is_parallel:
                calls["maxItems"] = 1
            return f"start: {mark}calls\ncalls: {json_rule(calls)}"
        rule = f"call: {json_rule(call)}"
        if not self.close:
            return f"start: {mark}call\n{rule}"
        more = r' ("\n" one)*' if is_parallel else ""
        one = rf'{mark}"\n" call "\n" MARK({self.close})'
        return f"start: one{more}\none: {one}\n{rule}"

    def _schema(self, name: str, parameters: Any) -> dict[str, Any]:  # Any: JSON
        return {
            "type": "object",
            "properties": {"name": {"const": name}, self.arguments: closed(parameters)},
            "required": ["name", self.arguments],
            "additionalProperties": False,
        }


def _call(reader: Reader, sink: CallSink) -> Reading[None]:
    """Reads one object. Its arguments stream if its name comes before them."""
    yield from reader.expect("{")
    name, early, has_begun = "", "", False
    while True:
        yield from reader.skip_space()
        if (yield from reader.accepts("}")):
            break
        key = yield from reader.string()
        yield from reader.skip_space()
        yield from reader.expect(":")
        yield from reader.skip_space()
        if key == "name" and not name:
            name = yield from reader.string()
        elif key in _ARGUMENTS and name and not has_begun:
            sink.begin(name)
            has_begun = True
            yield from _arguments(reader, sink)
        else:
            pieces: list[str] = []
            yield from reader.value(pieces.append)
            early = "".join(pieces) if key in _ARGUMENTS else early
        yield from reader.skip_space()
        yield from reader.accepts(",")
    if not has_begun:
        sink.begin(name)
        sink.add(early or "{}")
    sink.end()


def _arguments(reader: Reader, sink: CallSink) -> Reading[None]:
    """Reads the arguments: an object, or one in a JSON string."""
    if (yield from reader.peek()) == '"':
        sink.add((yield from reader.string()))
    else:
        yield from reader.value(sink.add)


def closed(schema: Any) -> Any:  # JSON
    """Returns the schema without properties that it does not name, unless it says otherwise."""
    return schema if schema.get("type", "object") != "object" else {"additionalProperties": False, **schema}


@dataclass(frozen=True, slots=True)
class MistralForm:
    """`[TOOL_CALLS]` before a list of JSON objects, or before each NAME[ARGS]{...} as in newer models."""

    names_first: bool = False  # as the model's own template writes it
    marks: tuple[str, ...] = ("[TOOL_CALLS]",)

    @property
    def visible(self) -> tuple[str, ...]:
        return ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

    def read(self, reader: Reader, sink: CallSink, mark: str) -> Reading[None]:
        yield from reader.skip_space()
        if (yield from reader.peek()) in "[{":
            yield from _MISTRAL_LIST.read(reader, sink, mark)
            return
        name: list[str] = []
        yield from reader.until("[", name.append)
        if not re.fullmatch(r"\s*[\w.-]+\s*", "".join(name)):
            raise NotACall
        if (yield from reader.accepts("CALL_ID]")):
            yield from reader.until("[", lambda call_id: None)
        yield from reader.expect("ARGS]")
        sink.begin("".join(name).strip())
        yield from reader.skip_space()
        yield from reader.value(sink.add)
        sink.end()

    def lark(self, schemas: Schemas, *, is_parallel: bool) -> str:
        if not self.names_first:
            return _MISTRAL_LIST.lark(schemas, is_parallel=is_parallel)
        rules = [f"args{index}: {json_rule(closed(schema))}" for index, schema in enumerate(schemas.values())]
        calls = [
            f"MARK([TOOL_CALLS]) {json.dumps(name)} MARK([ARGS]) args{i}" for i, name in enumerate(schemas)
        ]
        return "\n".join([f"start: one{'+' if is_parallel else ''}", f"one: {' | '.join(calls)}", *rules])


_MISTRAL_LIST = JsonForm(("[TOOL_CALLS]",), is_list=True)
HERMES = JsonForm(("<tool_call>",), "</tool_call>")
PHI = JsonForm(("<|tool_call|>",), "<|/tool_call|>", is_list=True)
LLAMA = JsonForm(("<|python_tag|>", ""), arguments="parameters", separator=";", reads_python=True)


def form_of(template: str, vocabulary: Sequence[str]) -> CallForm:
    """Returns the form that the model's chat template shows, or else its added tokens (`vocabulary`)."""
    if "<function=" in template:
        return XmlForm()
    if "[TOOL_CALLS]" in template or "[TOOL_CALLS]" in vocabulary:
        return MistralForm(names_first="[ARGS]" in template)
    if "func_name1(" in template:
        return PythonicForm()
    if "<|tool_call>" in template:
        return GemmaForm()
    if "<|tool_call|>" in template or "<|tool_call|>" in vocabulary:
        return PHI
    if "<tool_call>" not in template and ("<|python_tag|>" in vocabulary or '"parameters"' in template):
        return LLAMA
    return HERMES
