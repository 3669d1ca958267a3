import asyncio
import io
import threading

import pyte
import pytest
from hypothesis import given, settings, strategies as st
from prompt_toolkit.input import PipeInput, create_pipe_input
from rich.console import Console

from app.cli.input.typed_ahead import TypedAhead
from app.cli.output.answer_view import PlainAnswer
from app.cli.output.formatting import without_controls
from app.cli.output.live_view import LiveView
from app.cli.output.markdown_stream import MarkdownStream, Row
from app.cli.output.screen_writer import ScreenWriter
from tests.cli.conftest import ReadableScreen
from tests.cli.output.drawn_answer import DrawnAnswer, frame, remaining_rows
from tests.cli.output.markdown_text import cuts
from tests.waiting import LIMIT_S, until


def _drawn(chunks: list[str], width: int = 40, height: int = 10) -> str:
    answer = DrawnAnswer(width, height)
    answer.screen.status = "..."
    for chunk in chunks:
        answer.frame()
        answer.rows.feed(chunk)
        answer.screen.status = ""
        answer.frame()
    answer.finish()
    return answer.written


@settings(max_examples=150)
@given(cuts(), st.integers(20, 200), st.integers(4, 30))
def test_row_screen_leaves_the_rows_of_one_print(chunks: list[str], width: int, height: int) -> None:
    at_once = remaining_rows(_drawn(["".join(chunks)], width, height), width, height)
    assert remaining_rows(_drawn(chunks, width, height), width, height) == at_once


def _reflowed(screen: pyte.Screen, width: int) -> tuple[pyte.Screen, pyte.Stream]:
    """The screen after a change of its width, which rewraps its rows."""
    rows = [row.rstrip() for row in screen.display]
    wider = pyte.Screen(width, TALL)
    stream = pyte.Stream(wider)
    stream.feed("\r\n".join(rows[: screen.cursor.y + 1]))
    return wider, stream


TALL = 300  # rows, so that nothing scrolls out when the rows are rewrapped


@settings(max_examples=60)
@given(cuts(), st.lists(st.integers(20, 200), min_size=1, max_size=6))
def test_row_screen_neither_repeats_nor_loses_rows_when_resized(chunks: list[str], widths: list[int]) -> None:
    answer = DrawnAnswer(width=80, height=TALL)
    console = answer.console
    shown, stream = _reflowed(pyte.Screen(80, TALL), 80)
    model, expected, read = MarkdownStream(console), [], 0
    for number, chunk in enumerate(chunks):
        answer.rows.feed(chunk)
        answer.frame()
        model.feed(without_controls(chunk))
        expected += model.take(console.width)
        stream.feed(answer.written[read:].replace("\n", "\r\n"))
        read = len(answer.written)
        if number < len(widths):
            console.width = widths[number]
            shown, stream = _reflowed(shown, console.width)
    answer.finish()
    stream.feed(answer.written[read:].replace("\n", "\r\n"))
    expected += model.finish(console.width)
    text = "".join(segment.text for row in expected for segment in row)
    assert "".join("".join(shown.display).split()) == "".join(text.split())


def test_row_screen_leaves_the_rows_of_a_long_answer() -> None:
    answer = "".join(f"- item {n}\n" for n in range(300)) + "\n| a | b |\n|--|--|\n| 1 | 2 |\n\n```\n"
    answer += "".join(f"line {n}\n" for n in range(300)) + "```\n"
    scrolled, screen = frame(_drawn([answer[at : at + 32] for at in range(0, len(answer), 32)]))
    assert [row for row in scrolled if row.startswith(" • ")] == [f" • item {n}" for n in range(300)]
    lines = [row for row in (*scrolled, *screen) if row.startswith("line")]
    assert lines == [f"line {n}" for n in range(300)]
    before, items, table, code, cursor = 1, 300, 5, 300, 1  # the table stands between blank rows
    assert len(scrolled) + len(screen) == before + items + table + code + cursor


def _part(number: int) -> tuple[list[str], list[str]]:
    """Twenty lines of Markdown, and their rows."""
    cells = [f"row {number:03}.{k}" for k in range(5)]
    code = [f"x{k} = {number}" for k in range(6)]
    table = ["| name | value |", "|------|------:|", *(f"| {cell} | {k} |" for k, cell in enumerate(cells))]
    lines = [f"## Part {number}", "", *table, "", "```python", *code, "```", f"Words of *{number}*.", ""]
    drawn = [" name       value", " " + "─" * 16, *(f" {cell}{k:7}" for k, cell in enumerate(cells))]
    return lines, [f"Part {number}", "", *drawn, "", *code, "", f"Words of {number}.", ""]


def test_row_screen_leaves_the_rows_of_two_thousand_lines() -> None:
    parts = [_part(number) for number in range(100)]
    lines = [line for part, _ in parts for line in part]
    rows = [row for _, drawn in parts for row in drawn]
    answer = "\n".join(lines)
    written = _drawn([answer[at : at + 64] for at in range(0, len(answer), 64)], 80, 24)
    assert len(lines) == 2_000
    assert remaining_rows(written, 80, 24) == ["before", *rows[:-1]]


def test_row_screen_shows_the_end_of_a_tall_answer() -> None:
    answer = DrawnAnswer(height=6)
    answer.rows.feed("\n".join(f"line {n}" for n in range(20)))
    answer.frame()
    _, screen = frame(answer.written, height=6)
    assert screen == [f"line {n}" for n in range(15, 20)] + [""]


def test_row_screen_rewrites_only_changed_rows() -> None:
    answer = DrawnAnswer()
    answer.rows.feed("first line\nsecond")
    answer.frame()
    written = len(answer.written)
    answer.frame()
    assert len(answer.written) == written
    answer.rows.feed(" line")
    answer.frame()
    assert "first line" not in answer.written[written:]


def test_row_screen_adapts_to_a_new_width() -> None:
    answer = DrawnAnswer(width=40)
    answer.rows.feed("words that fill more than one row of a terminal that became narrow meanwhile")
    answer.frame()
    answer.console.width = 20
    answer.frame()
    answer.finish()
    assert "narrow" in answer.written


@pytest.mark.parametrize("escape", ["\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "&#27;[2J", "\x08\x08"])
def test_row_screen_removes_control_characters(escape: str) -> None:
    plain, escaped = _drawn(["a  b"]), _drawn([f"a {escape} b"])
    assert escaped.count("\x1b") == plain.count("\x1b")
    assert "\x9b" not in escaped and "\x07" not in escaped and "\x08" not in escaped


def test_live_view_draws_few_frames_of_many_chunks() -> None:
    async def stream() -> str:
        answer = DrawnAnswer()
        view = LiveView(ScreenWriter(answer.console), answer.rows, frame_s=3600)
        async with view:
            for n in range(200):
                answer.rows.feed(f"word{n} ")
                view.change()
                await asyncio.sleep(0)
        return answer.written

    written = asyncio.run(stream())
    assert written.count("\x1b[?2026h") <= 2  # the first frame, and the last
    assert "word199" in "".join(frame(written)[1])
    assert written.endswith("\x1b[?25h")


def test_live_view_shows_keys_that_are_typed_meanwhile() -> None:
    async def stream(keyboard: PipeInput) -> str:
        answer, typed_ahead = DrawnAnswer(), TypedAhead(keyboard)
        typed_ahead.begin()
        async with LiveView(ScreenWriter(answer.console), answer.rows, typed_ahead, frame_s=3600):
            keyboard.send_text("nexr\x7ft")
            await until(lambda: "You: next" in answer.written)
        typed_ahead.end()
        return answer.written

    with create_pipe_input() as keyboard:
        written = asyncio.run(stream(keyboard))
    assert remaining_rows(written, 40, 10) == ["before"]


class BlockedRows:
    """Rows whose layout takes until they are released."""

    def __init__(self) -> None:
        self.is_laying_out = threading.Event()
        self.released = threading.Event()

    def take(self, width: int) -> list[Row]:
        self.is_laying_out.set()
        assert self.released.wait(LIMIT_S)
        return []

    def live(self, width: int) -> list[Row]:
        return []

    def finish(self, width: int) -> list[Row]:
        return []


def test_live_view_shows_keys_while_rows_are_laid_out() -> None:
    async def stream(keyboard: PipeInput) -> None:
        file, rows, typed_ahead = io.StringIO(), BlockedRows(), TypedAhead(keyboard)
        console = Console(file=file, width=40, height=10, force_terminal=True)
        typed_ahead.begin()
        async with LiveView(ScreenWriter(console), rows, typed_ahead) as view:
            view.change()
            await until(rows.is_laying_out.is_set)
            keyboard.send_text("next")
            await until(lambda: "You: next" in file.getvalue())
            rows.released.set()
        typed_ahead.end()

    with create_pipe_input() as keyboard:
        asyncio.run(stream(keyboard))


def test_plain_answer_is_the_text_and_a_newline() -> None:
    async def write(file: io.StringIO) -> str:
        async with PlainAnswer(file) as view:
            view.wait("reading the prompt")
            view.feed("**a**\x1b[2J")
        return file.getvalue()

    assert asyncio.run(write(io.StringIO())) == "**a**\x1b[2J\n"
    assert asyncio.run(write(ReadableScreen())) == "**a**[2J\n"
