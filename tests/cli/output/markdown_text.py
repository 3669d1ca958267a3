"""Generates Markdown for property tests, including malformed Markdown, and cuts it into chunks."""

from hypothesis import strategies as st

LINES = (
    "- a",
    "* b",
    "1. first",
    "2) second",
    "10. tenth",
    "   3. three",
    "  - below",
    "    deep or code",
    " - e",
    "    - paragraph or item",
    "```",
    "```python",
    "~~~",
    "``` a",
    "- ```python",
    "  x = '''",
    "  ```",
    "> quoted",
    "> - listed",
    ">>>>>>>> deep",
    "| a | b |",
    "|---|:-:|",
    "| 1 | 2",
    "a|b",
    "-|-",
    "---",
    "===",
    "* * *",
    "# Heading",
    "text",
    "more *bold* and `code` and ~~gone~~",
    "a line with words enough that no narrow terminal can hold it in one row of its own",
    "x" * 90,
    "漢字 in a row, 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
    "",
    "   ",
    "\t tab",
    "[x]: http://example.org",
    "[link](http://example.org) <http://example.org> ![image](u)",
    "<b>html</b> &copy; &#27;[31m &#10;",
    "-",
    "+",
    "1.",
    "`co",
    "\\",
    "\x1b[2J\x1b]0;title\x07\x9b31m\r",
)
WILD = "-*+>`~#|1.) \n\n\n  ab:\\_[]()<&=\t"

lines = st.lists(st.sampled_from(LINES), max_size=25).map("\n".join)
wild = st.text(WILD, max_size=60)
markdown = st.one_of(lines, wild)


@st.composite
def cuts(draw: st.DrawFn) -> list[str]:
    """A text, cut into chunks."""
    text = draw(markdown)
    places = sorted(draw(st.sets(st.integers(0, max(0, len(text))), max_size=20)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
