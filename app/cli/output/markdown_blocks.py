"""Renders blocks of Markdown with rich, without padding, with highlighted code, and without losing text."""

import itertools
import os

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import BlockQuote, CodeBlock, Heading, ListElement, ListItem, Markdown, TableElement
from rich.measure import Measurement
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

NARROWEST = 8  # columns left for a deeply nested block
LEGIBLE = 10  # the narrowest column of a table with longer text
COLUMN_GAP = 2  # beside each column of a table, in rich's layout
_LIGHT = ("7", "15")  # the numbers of white among a terminal's colours


def parse(source: str) -> list[Token]:
    """Parses CommonMark with tables. HTML and link definitions stay text, because rich would drop them."""
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 100})
    tokens = parser.enable(["strikethrough", "table"]).disable("reference").parse(source)
    for token in tokens:
        token.children = token.children and _shown_inlines(token.children)
    return tokens


def highlight(code: str, language: str) -> Text:
    syntax = Syntax("", language or "text", theme=_theme(), background_color="default")
    text = syntax.highlight(code.expandtabs(4).rstrip())
    text.rstrip()
    return text


def _theme() -> str:
    """Returns the colours for the terminal's background, which some terminals name in COLORFGBG."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "ansi_light" if background in _LIGHT else "ansi_dark"


def _prefix(mark: str, options: ConsoleOptions) -> str:
    """Returns the prefix of the rows of a nested block; empty if it would make them too narrow."""
    return mark if options.max_width - len(mark) >= NARROWEST else ""


class _Code(CodeBlock):
    """Code inside another block."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield highlight(str(self.text), self.lexer_name)


class _Heading(Heading):
    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _Quote(BlockQuote):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        prefix = _prefix("▌ ", options)
        inner = options.update(width=options.max_width - len(prefix))
        for line in console.render_lines(self.elements, inner, style=self.style, pad=False):
            yield from (Segment(prefix, self.style), *line, Segment("\n"))


class _Item(ListItem):
    """A list item with its marker. Numbers stay as the model wrote them."""

    marker = " • "

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> "_Item":
        item = cls()
        if token.info:
            item.marker = f" {token.info}{token.markup} "
        return item

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marker = _prefix(self.marker, options)
        inner = options.update(width=options.max_width - len(marker))
        prefix = Segment(marker, console.get_style("markdown.item.bullet", default="none"))
        for line in console.render_lines(self.elements, inner, style=self.style, pad=False) or [[]]:
            yield from (prefix, *line, Segment("\n"))
            prefix = Segment(" " * len(marker))


class _List(ListElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.items


class _Table(TableElement):
    """A table that loses no text, which rich would cut. Words that are wider than their column are broken.

    If the columns would be too narrow, each row becomes a list of its cells, each with its heading.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table), "rich yields a table"
            for column in table.columns:
                column.overflow = "fold"
            yield table if _is_legible(table, console, options) else self._listed()

    def _listed(self) -> Text:
        headings = self._headings()
        body = [] if self.body is None else self.body.rows
        records = [_record(headings, [cell.content for cell in row.cells]) for row in body]
        return Text("\n\n").join(records or [_record(headings, [])])

    def _headings(self) -> list[Text]:
        row = None if self.header is None else self.header.row
        headings = [] if row is None else [cell.content.copy() for cell in row.cells]
        for heading in headings:
            heading.stylize("markdown.table.header")
        return headings


def _is_legible(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Returns whether each column has room for its cells, or at least for most words."""
    columns = [(column.header, *column.cells) for column in table.columns]
    naturals = [max(Measurement.get(console, options, cell).maximum for cell in cells) for cells in columns]
    widths = [min(max(natural, 1), LEGIBLE) + COLUMN_GAP for natural in naturals]
    return sum(widths) <= options.max_width


def _record(headings: list[Text], cells: list[Text]) -> Text:
    pairs = itertools.zip_longest(headings, cells, fillvalue=Text())
    return Text("\n").join(
        Text.assemble(heading, ": " if heading and cell else ":" if heading else "", cell)
        for heading, cell in pairs
        if heading or cell
    )


class Blocks(Markdown):
    """Rich's Markdown, from tokens that are parsed already."""

    elements = Markdown.elements | {
        "fence": _Code,
        "code_block": _Code,
        "heading_open": _Heading,
        "blockquote_open": _Quote,
        "bullet_list_open": _List,
        "ordered_list_open": _List,
        "list_item_open": _Item,
        "table_open": _Table,
    }

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens


def _shown_inlines(children: list[Token]) -> list[Token]:
    """Changes inline tokens for a terminal: line breaks are kept, images and bare links become text."""
    shown = []
    for token in children:
        if token.type == "softbreak":
            shown.append(Token("hardbreak", "br", 0))
        elif token.type == "image":
            shown.append(Token("text", "", 0, content=f"![{token.content}]({token.attrs['src']})"))
        elif token.markup != "autolink":
            shown.append(token)
    return shown
