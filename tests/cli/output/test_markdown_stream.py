import io
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings, strategies as st
from rich.cells import cell_len
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


def _table(headings: Sequence[str], *rows: Sequence[str]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


CELLS = st.sampled_from(("", "a", "7.5", "two words", "漢字漢字", "Donaudampfschifffahrtsgesellschaft"))


@settings(max_examples=100)
@given(st.data(), st.integers(1, 40), st.integers(8, 140))
def test_table_of_any_width_loses_no_text(data: st.DataObject, columns: int, width: int) -> None:
    rows = data.draw(st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=4))
    shown = _shown(_table(*rows), width)
    assert Counter("".join(shown)) >= Counter("".join(cell.replace(" ", "") for row in rows for cell in row))
    assert all(cell_len(row) <= width for row in shown)


def test_table_with_too_many_columns_becomes_lists_of_its_rows() -> None:
    headings = [f"heading {number}" for number in range(1, 6)]
    source = _table([*headings, ""], ["one", "two", "three", "", "five", "six"], ["1"])
    assert _shown(source, 30) == [
        *("heading 1: one", "heading 2: two", "heading 3: three", "heading 4:", "heading 5: five", "six"),
        *("", "heading 1: 1", "heading 2:", "heading 3:", "heading 4:", "heading 5:"),
    ]
    assert "heading 5  " in _shown(source, 80)[0] + "  "


def test_table_of_narrow_columns_stays_a_table() -> None:
    assert _shown(_table("abcdefgh", "12345678"), 30)[0].split() == list("abcdefgh")


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
