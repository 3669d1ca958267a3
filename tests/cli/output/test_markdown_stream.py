import io

import pytest
from hypothesis import example, given, settings
from rich.console import Console

from app.cli.output.markdown_blocks import highlight
from app.cli.output.markdown_stream import MarkdownStream, Row
from tests.cli.output.markdown_text import cuts


def _stream() -> MarkdownStream:
    return MarkdownStream(Console(file=io.StringIO(), width=40, force_terminal=True))


def _text(rows: list[Row]) -> list[str]:
    return ["".join(segment.text for segment in row) for row in rows]


def _shown(source: str, width: int = 40) -> list[str]:
    stream = _stream()
    stream.feed(source)
    return _text(stream.finish(width))


@settings(max_examples=300)
@given(cuts())
@example(["- a\n  ```\n- a\n", " - e\n- a"])  # an empty fence, and items that cannot be parsed alone
def test_stream_gives_the_same_rows_for_any_chunks(chunks: list[str]) -> None:
    stream = _stream()
    rows: list[Row] = []
    for chunk in chunks:
        stream.feed(chunk)
        rows += stream.take(40)
        stream.live(40)
    assert _text(rows + stream.finish(40)) == _shown("".join(chunks))


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("one\n\ntwo", ["one", "", "two"]),
        ("a line\nand another", ["a line", "and another"]),
        ("- a\n- b\n  1. c", [" • a", " • b", "    1. c"]),
        ("3. x\n1. y", [" 3. x", " 1. y"]),
        ("```py\nx = 1\n\n```\nend", ["x = 1", "", "end"]),
        ("```\n```\nend", ["end"]),
        ("<b>html</b>", ["<b>html</b>"]),
        ("[a]: http://b", ["[a]: http://b"]),
        ("![cat](c.png) <http://d>", ["![cat](c.png) http://d"]),
        ("[text](http://a)", ["text (http://a)"]),
        ("> a\n> b", ["▌ a", "▌ b"]),
        ("# Head\ntext", ["Head", "", "text"]),
        ("", []),
    ],
)
def test_stream_lays_out_blocks(source: str, rows: list[str]) -> None:
    assert _shown(source) == rows


def test_code_is_never_wrapped() -> None:
    line = "x = " + "1 + " * 50 + "1"
    assert _shown(f"```python\n{line}\n```") == [line]


def test_take_returns_finished_items_and_fence_lines_at_once() -> None:
    stream = _stream()
    stream.feed("- a\n- b\n- c")
    assert _text(stream.take(40)) == [" • a"]
    stream.feed("\n\n```\none\ntwo\nthr")
    assert _text(stream.take(40)) == [" • b", " • c", "", "one", "two"]
    assert _text(stream.live(40)) == ["thr"]


def test_deep_nesting_stays_readable() -> None:
    assert any("deep" in row for row in _shown(">" * 60 + " deep words", width=20))


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_narrow_table_loses_no_text(columns: int) -> None:
    word = "Donaudampfschifffahrtsgesellschaft"
    rows = _shown(f"{'| a ' * columns}|\n{'|---' * columns}|\n{f'| {word} ' * columns}|", width=20)
    assert sorted("".join(rows[2:]).replace(" ", "")) == sorted(word * columns)


@pytest.mark.parametrize(
    ("colours", "keyword"), [(None, "bright_blue"), ("15;0", "bright_blue"), ("0;15", "blue")]
)
def test_code_suits_the_background(
    monkeypatch: pytest.MonkeyPatch, colours: str | None, keyword: str
) -> None:
    if colours is None:
        monkeypatch.delenv("COLORFGBG", raising=False)
    else:
        monkeypatch.setenv("COLORFGBG", colours)
    assert str(highlight("pass", "python").spans[0].style) == keyword
