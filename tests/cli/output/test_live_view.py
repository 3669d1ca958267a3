import asyncio
import io

import pyte
import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from app.cli.output.answer_view import PlainAnswer, without_controls
from app.cli.output.live_answer import LiveAnswer
from app.cli.output.live_view import FRAME_S
from app.cli.output.markdown import MarkdownStream
from tests.cli.conftest import ReadableScreen
from tests.cli.output.markdown_text import cuts

Frame = tuple[list[str], list[str]]  # scrollback and screen


def _painter(width: int = 40, height: int = 10) -> tuple[LiveAnswer, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system="truecolor")
    return LiveAnswer(console), file


def _terminal(width: int = 40, height: int = 10) -> tuple[pyte.HistoryScreen, pyte.Stream]:
    screen = pyte.HistoryScreen(width, height, history=100_000)
    return screen, pyte.Stream(screen)


def _frame(written: str, width: int = 40, height: int = 10) -> Frame:
    screen, stream = _terminal(width, height)
    stream.feed("before\r\n" + written.replace("\n", "\r\n"))
    scrolled = ["".join(line[x].data for x in range(width)).rstrip() for line in screen.history.top]
    return scrolled, [line.rstrip() for line in screen.display]


def _left(written: str, width: int, height: int) -> list[str]:
    """Scrollback and screen as one, without blank rows below: what once was taller has scrolled further."""
    scrolled, screen = _frame(written, width, height)
    return "\n".join([*scrolled, *screen]).rstrip("\n").split("\n")


def _painted(chunks: list[str], width: int = 40, height: int = 10) -> str:
    view, file = _painter(width, height)
    view.wait("...")
    for chunk in chunks:
        view.paint()
        view.feed(chunk)
        view.paint()
    view.finish()
    return file.getvalue()


@settings(max_examples=150, deadline=None)
@given(cuts(), st.integers(20, 200), st.integers(4, 30))
def test_painter_leaves_what_printing_at_once_leaves(chunks: list[str], width: int, height: int) -> None:
    at_once = _left(_painted(["".join(chunks)], width, height), width, height)
    assert _left(_painted(chunks, width, height), width, height) == at_once


def _reflowed(screen: pyte.Screen, width: int) -> tuple[pyte.Screen, pyte.Stream]:
    """What a terminal shows once it is that wide: its rows, broken anew."""
    rows = [row.rstrip() for row in screen.display]
    wider = pyte.Screen(width, TALL)
    stream = pyte.Stream(wider)
    stream.feed("\r\n".join(rows[: screen.cursor.y + 1]))
    return wider, stream


TALL = 300  # rows, so that reflowing pushes nothing out of reach


@settings(max_examples=60, deadline=None)
@given(cuts(), st.lists(st.integers(20, 200), min_size=1, max_size=6))
def test_painter_doubles_and_loses_nothing_when_the_terminal_is_resized(
    chunks: list[str], widths: list[int]
) -> None:
    view, file = _painter(width=80, height=TALL)
    console = view._writer._console
    shown, stream = _reflowed(pyte.Screen(80, TALL), 80)
    model, expected, read = MarkdownStream(console), [], 0
    for number, chunk in enumerate(chunks):
        view.feed(chunk)
        view.paint()
        model.feed(without_controls(chunk))
        expected += model.take(console.width)
        stream.feed(file.getvalue()[read:].replace("\n", "\r\n"))
        read = len(file.getvalue())
        if number < len(widths):
            console.width = widths[number]
            shown, stream = _reflowed(shown, console.width)
    view.finish()
    stream.feed(file.getvalue()[read:].replace("\n", "\r\n"))
    expected += model.finish(console.width)
    text = "".join(segment.text for row in expected for segment in row)
    assert "".join("".join(shown.display).split()) == "".join(text.split())


def test_painter_leaves_exactly_the_rows_of_a_long_answer() -> None:
    answer = "".join(f"- item {n}\n" for n in range(300)) + "\n| a | b |\n|--|--|\n| 1 | 2 |\n\n```\n"
    answer += "".join(f"line {n}\n" for n in range(300)) + "```\n"
    scrolled, screen = _frame(_painted([answer[at : at + 32] for at in range(0, len(answer), 32)]))
    assert [row for row in scrolled if row.startswith(" • ")] == [f" • item {n}" for n in range(300)]
    lines = [row for row in (*scrolled, *screen) if row.startswith("line")]
    assert lines == [f"line {n}" for n in range(300)]
    before, items, table, code, cursor = 1, 300, 5, 300, 1  # the table stands between blank rows
    assert len(scrolled) + len(screen) == before + items + table + code + cursor


def _part(number: int) -> tuple[list[str], list[str]]:
    """Twenty lines of Markdown, and the rows that they are."""
    cells = [f"row {number:03}.{k}" for k in range(5)]
    code = [f"x{k} = {number}" for k in range(6)]
    table = ["| name | value |", "|------|------:|", *(f"| {cell} | {k} |" for k, cell in enumerate(cells))]
    lines = [f"## Part {number}", "", *table, "", "```python", *code, "```", f"Words of *{number}*.", ""]
    drawn = [" name       value", " " + "─" * 16, *(f" {cell}{k:7}" for k, cell in enumerate(cells))]
    return lines, [f"Part {number}", "", *drawn, "", *code, "", f"Words of {number}.", ""]


def test_painter_leaves_exactly_the_rows_of_two_thousand_lines() -> None:
    parts = [_part(number) for number in range(100)]
    lines = [line for part, _ in parts for line in part]
    rows = [row for _, drawn in parts for row in drawn]
    answer = "\n".join(lines)
    written = _painted([answer[at : at + 64] for at in range(0, len(answer), 64)], 80, 24)
    assert len(lines) == 2_000
    assert _left(written, 80, 24) == ["before", *rows[:-1]]


def test_painter_shows_the_end_of_what_is_taller_than_the_screen() -> None:
    view, file = _painter(height=6)
    view.feed("\n".join(f"line {n}" for n in range(20)))
    view.paint()
    _, screen = _frame(file.getvalue(), height=6)
    assert screen == [f"line {n}" for n in range(15, 20)] + [""]


def test_painter_rewrites_only_what_changed() -> None:
    view, file = _painter()
    view.feed("first line\nsecond")
    view.paint()
    written = len(file.getvalue())
    view.paint()
    assert len(file.getvalue()) == written
    view.feed(" line")
    view.paint()
    assert "first line" not in file.getvalue()[written:]


def test_painter_repaints_for_the_width_of_now() -> None:
    view, file = _painter(width=40)
    view.feed("words that fill more than one row of a terminal that became narrow meanwhile")
    view.paint()
    view._writer._console.width = 20
    view.paint()
    view.finish()
    assert "narrow" in file.getvalue()


@pytest.mark.parametrize("escape", ["\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "&#27;[2J", "\x08\x08"])
def test_painter_lets_no_escape_of_the_model_through(escape: str) -> None:
    plain, escaped = _painted(["a  b"]), _painted([f"a {escape} b"])
    assert escaped.count("\x1b") == plain.count("\x1b")
    assert "\x9b" not in escaped and "\x07" not in escaped and "\x08" not in escaped


def test_painter_paints_few_frames_of_many_chunks() -> None:
    async def stream() -> str:
        view, file = _painter()
        async with view:
            began = asyncio.get_running_loop().time()
            for n in range(200):
                view.feed(f"word{n} ")
                await asyncio.sleep(0.001)
            self_time = asyncio.get_running_loop().time() - began
        assert file.getvalue().count("\x1b[?2026h") <= 3 + self_time / FRAME_S
        return file.getvalue()

    written = asyncio.run(stream())
    assert "word199" in "".join(_frame(written)[1])
    assert written.endswith("\x1b[?25h")


def test_plain_answer_is_the_text_and_a_line_end() -> None:
    async def write(file: io.StringIO) -> str:
        async with PlainAnswer(file) as view:
            view.wait("reading")
            view.feed("**a**\x1b[2J")
        return file.getvalue()

    assert asyncio.run(write(io.StringIO())) == "**a**\x1b[2J\n"
    assert asyncio.run(write(ReadableScreen())) == "**a**[2J\n"


# Thoughts


def _thought(fold: bool, chunks: list[tuple[str, str]], width: int = 40) -> list[str]:
    file = io.StringIO()
    answer = LiveAnswer(Console(file=file, width=width, height=10, force_terminal=True), fold)
    for kind, text in chunks:
        (answer.think if kind == "thinking" else answer.feed)(text)
        answer.paint()
    answer.finish()
    return _left(file.getvalue(), width, 10)


THOUGHT = [
    ("thinking", "First *this*,\nthen th"),
    ("thinking", "at.\x1b[2J\n"),
    ("delta", "**Done** it."),
    ("delta", "\n"),
]


def test_thoughts_stand_above_the_answer_as_they_came() -> None:
    assert _thought(False, THOUGHT) == ["before", "First *this*,", "then that.[2J", "", "Done it."]


def test_folded_thoughts_are_one_line() -> None:
    assert _thought(True, THOUGHT) == ["before", "Thought for 0 s.", "", "Done it."]


def test_thoughts_without_an_answer_stay() -> None:
    assert _thought(False, THOUGHT[:1]) == ["before", "First *this*,", "then th"]
