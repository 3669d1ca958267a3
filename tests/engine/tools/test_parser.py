"""Tool calls are found in prescribed replies, however these are cut into pieces, and streams add up."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, strategies as st

from app.engine.replies.parts import Part
from app.engine.tools.forms import HERMES, LLAMA, PHI, MistralForm
from app.engine.tools.gemma import GemmaForm
from app.engine.tools.parser import CallForm, ToolCallParser
from app.engine.tools.pythonic import PythonicForm
from app.engine.tools.xml import XmlForm

SCHEMAS = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "where": {"type": "object"},
            "tags": {"type": "array"},
        },
    },
    "time": {"type": "object", "properties": {}},
}
Call = tuple[str, str]  # name, and arguments as text


@dataclass(frozen=True)
class Example:
    form: CallForm
    reply: str
    text: str
    calls: tuple[Call, ...]


PARIS = '{"city": "Paris", "days": 2}'
ODD = '{"city": "a}\\"]{ \\\\", "where": {"x": [1, {"y": null}]}}'
XML = (
    '<tool_call>\n<function=weather>\n<parameter=city>\nParis "x"\nline\n</parameter>\n'
    '<parameter=days>\n2\n</parameter>\n<parameter=tags>\n[1, "a"]\n</parameter>\n</function>\n</tool_call>'
)
XML_ARGUMENTS = '{"city": "Paris \\"x\\"\\nline", "days": 2, "tags": [1, "a"]}'
GEMMA = '<|tool_call>call:weather{city:<|"|>Pa"ris\n<|"|>,days:2,where:{a:[true,<|"|>b<|"|>]}}<tool_call|>'
GEMMA_ARGUMENTS = '{"city": "Pa\\"ris\\n", "days": 2, "where": {"a": [true, "b"]}}'
MISTRAL = MistralForm()
EXAMPLES = {
    "hermes": Example(
        HERMES,
        f'Let me see.\n<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>',
        "Let me see.",
        (("weather", PARIS),),
    ),
    "hermes twice": Example(
        HERMES,
        f'<tool_call>{{"name": "weather", "arguments": {ODD}}}</tool_call>\n'
        '<tool_call>\n{"arguments": {}, "name": "time"}\n</tool_call>\n',
        "",
        (("weather", ODD), ("time", "{}")),
    ),
    "hermes between texts": Example(
        HERMES, '\nA <tool_call>{"name":"time"}</tool_call> and B\n', "\nA and B\n", (("time", "{}"),)
    ),
    "arguments in a string": Example(
        HERMES,
        '<tool_call>{"name": "weather", "arguments": "{\\"days\\": 1}"}</tool_call>',
        "",
        (("weather", '{"days": 1}'),),
    ),
    "smollm2": Example(
        HERMES,
        f'<tool_call>[{{"name": "time", "arguments": {{}}}}, {{"name": "weather", "arguments": {PARIS}}}]'
        "</tool_call>",
        "",
        (("time", "{}"), ("weather", PARIS)),
    ),
    "phi": Example(
        PHI,
        f'<|tool_call|>[{{"name": "weather", "arguments": {PARIS}}}]<|/tool_call|>',
        "",
        (("weather", PARIS),),
    ),
    "llama": Example(LLAMA, f'{{"name": "weather", "parameters": {PARIS}}}', "", (("weather", PARIS),)),
    "llama marked, twice": Example(
        LLAMA,
        f'<|python_tag|>{{"name": "weather", "parameters": {PARIS}}}; {{"name": "time", "parameters": {{}}}}',
        "",
        (("weather", PARIS), ("time", "{}")),
    ),
    "pythonic": Example(
        PythonicForm(),
        "[weather(city='Pa\\'ris \"x\"', days=2, where={'a': [True, None, 'b']}, tags=(1, -2.5,)), time()]",
        "",
        (
            (
                "weather",
                '{"city": "Pa\'ris \\"x\\"", "days": 2, "where": {"a": [true, null, "b"]}, '
                '"tags": [1, -2.5]}',
            ),
            ("time", "{}"),
        ),
    ),
    "llama list": Example(
        LLAMA, f'[{{"name": "weather", "parameters": {PARIS}}}]', "", (("weather", PARIS),)
    ),
    "llama, pythonic": Example(
        LLAMA, ' [weather(city="Paris", days=2)]', "", (("weather", '{"city": "Paris", "days": 2}'),)
    ),
    "mistral list": Example(
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}}}, {{"name": "time", "arguments": {{}}}}]',
        "",
        (("weather", PARIS), ("time", "{}")),
    ),
    "mistral names": Example(
        MISTRAL,
        f"Hm.[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]time[CALL_ID]abcdefghi[ARGS]{{}}",
        "Hm.",
        (("weather", PARIS), ("time", "{}")),
    ),
    "xml": Example(XmlForm(), f"Well.\n\n{XML}", "Well.", (("weather", XML_ARGUMENTS),)),
    "xml twice": Example(
        XmlForm(),
        f"{XML}\n<tool_call>\n<function=time>\n</function>\n</tool_call>",
        "",
        (("weather", XML_ARGUMENTS), ("time", "{}")),
    ),
    "gemma": Example(GemmaForm(), f"Hm. {GEMMA}", "Hm.", (("weather", GEMMA_ARGUMENTS),)),
    "gemma twice": Example(
        GemmaForm(),
        f"{GEMMA}<|tool_call>call:time{{}}<tool_call|>",
        "",
        (("weather", GEMMA_ARGUMENTS), ("time", "{}")),
    ),
}
STAYS_TEXT: dict[str, tuple[CallForm, str]] = {
    "other tool": (HERMES, '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'),
    "no JSON": (HERMES, "Write <tool_call>name</tool_call> to call.\n"),
    "half a mark": (HERMES, "a <tool_cal"),
    "nothing after the mark": (HERMES, "a <tool_call>\n"),
    "name only begun": (HERMES, 'a\n<tool_call>{"name": "wea'),
    "JSON that is the answer": (LLAMA, '{"answer": [1, 2]}'),
    "JSON of another tool": (LLAMA, ' {"name": "Ada", "parameters": {"age": 3}}'),
    "JSON within text": (LLAMA, 'So: {"name": "weather", "parameters": {}}'),
    "a list": (LLAMA, "[1, 2]"),
    "a list of words": (PythonicForm(), "[weather, time]"),
    "a note": (LLAMA, "[Note] call weather()"),
    "another function": (PythonicForm(), "[rm(path='/')]"),
    "mistral": (MISTRAL, "[TOOL_CALLS]no call"),
    "mistral other tool": (MISTRAL, "[TOOL_CALLS]rm[ARGS]{}"),
    "xml": (XmlForm(), "<tool_call>\n<function=rm>\n</function></tool_call>"),
    "gemma": (GemmaForm(), "<|tool_call>call:rm{}<tool_call|>"),
    "plain": (HERMES, " Two words. \n\n"),
}


def parse(form: CallForm, pieces: Sequence[str], *, is_parallel: bool = True) -> tuple[list[Part], str]:
    """The parts, and the text of the parser's reply: all texts joined."""
    numbers = itertools.count()
    parser = ToolCallParser(form, SCHEMAS, lambda: f"call_{next(numbers)}", is_parallel=is_parallel)
    parts: list[Part] = []
    begin = 0
    for piece in pieces:
        if parser.is_done:
            break
        parts += parser.push(Part("text", piece, begin, begin + len(piece)))
        begin += len(piece)
    parts += parser.flush()
    return parts, "".join(part.text for part in parts if part.kind == "text")


def calls_of(parts: Sequence[Part]) -> tuple[Call, ...]:
    """The calls, each joined from its pieces."""
    calls: dict[int, tuple[str, str]] = {}
    for part in parts:
        if part.call is not None:
            assert part.call.id == f"call_{part.call.index}"
            _, arguments = calls.get(part.call.index, ("", ""))
            calls[part.call.index] = (part.call.name, arguments + part.text)
    assert list(calls) == list(range(len(calls))), "in order"
    return tuple(calls.values())


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_parser_finds_calls_however_the_text_comes(name: str, size: int) -> None:
    example = EXAMPLES[name]
    pieces = [example.reply[begin : begin + size] for begin in range(0, len(example.reply), size)]
    parts, text = parse(example.form, pieces)
    assert calls_of(parts) == example.calls
    assert text == example.text
    for _, arguments in example.calls:
        json.loads(arguments)


@pytest.mark.parametrize("name", STAYS_TEXT)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_parser_leaves_what_only_looks_like_a_call(name: str, size: int) -> None:
    form, reply = STAYS_TEXT[name]
    parts, text = parse(form, [reply[begin : begin + size] for begin in range(0, len(reply), size)])
    assert not calls_of(parts)
    assert text == reply


@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_parser_of_a_cut_reply_says_the_same_in_pieces_as_at_once(name: str, data: st.DataObject) -> None:
    """For a reply cut anywhere, and any pieces."""
    example = EXAMPLES[name]
    cut = example.reply[: data.draw(st.integers(0, len(example.reply)))]
    places = sorted(data.draw(st.sets(st.integers(0, len(cut)))))
    pieces = [cut[begin:end] for begin, end in itertools.pairwise([0, *places, len(cut)])]
    whole, whole_text = parse(example.form, [cut])
    streamed, streamed_text = parse(example.form, pieces)
    assert calls_of(streamed) == calls_of(whole)
    assert streamed_text == whole_text


@pytest.mark.parametrize("name", EXAMPLES)
def test_parser_of_a_cut_reply_finds_the_beginning_of_its_calls(name: str) -> None:
    """Wherever the reply is cut, also within a mark, as Gemma's quotes and the XML form's end tags."""
    example = EXAMPLES[name]
    for end in range(len(example.reply) + 1):
        calls = calls_of(parse(example.form, [example.reply[:end]])[0])
        for (called, arguments), (wanted, all_arguments) in zip(calls, example.calls, strict=False):
            assert (called, arguments) == (wanted, all_arguments[: len(arguments)])


@pytest.mark.parametrize(
    ("form", "before", "mark"),
    [
        (GemmaForm(), '<|tool_call>call:weather{city:<|"|>', '<|"|>'),
        (XmlForm(), "<tool_call>\n<function=weather>\n<parameter=city>\n", "</parameter>"),
    ],
    ids=["gemma", "xml"],
)
def test_parser_leaves_an_unfinished_mark_out_of_a_string(form: CallForm, before: str, mark: str) -> None:
    """What turns out to be no mark belongs to the string."""
    for begun in itertools.accumulate(mark[:-1]):
        for pieces in ([f"{before}a {begun}"], [before, "a ", *begun]):
            parts, text = parse(form, pieces)
            assert (calls_of(parts), text) == ((("weather", '{"city": "a '),), "")
        ((_, arguments),) = calls_of(parse(form, [before, *begun, "~b"])[0])
        assert arguments == '{"city": ' + json.dumps(f"{begun}~b")[:-1]


@pytest.mark.parametrize("name", EXAMPLES)
def test_parser_streams_arguments(name: str) -> None:
    """A long argument comes in pieces, not at its end."""
    example = EXAMPLES[name]
    parts, _ = parse(example.form, list(example.reply))
    longest = max((arguments for _, arguments in example.calls), key=len)
    if len(longest) > 5 and name != "arguments in a string":
        assert sum(part.kind == "tool_call" for part in parts) > 5


@pytest.mark.parametrize("name", EXAMPLES)
def test_parser_without_parallel_calls_ends_with_the_first(name: str) -> None:
    example = EXAMPLES[name]
    parts, text = parse(example.form, list(example.reply), is_parallel=False)
    assert calls_of(parts) == example.calls[:1]
    assert example.text.startswith(text)


def test_parser_parts_say_where_their_text_stands() -> None:
    reply = EXAMPLES["hermes between texts"].reply
    parts, _ = parse(HERMES, list(reply))
    for part in parts:
        if part.kind == "text":
            assert reply[part.start : part.end] == part.text
