"""Lays out Markdown that is still arriving, and decides which of its rows are final.

A block is final once a later block has begun. Markdown is parsed by lines, so an incomplete line decides
nothing. In the last block, all list items but the last one and the complete lines of a code fence are final.
"""

import re
from dataclasses import dataclass

from markdown_it.token import Token
from rich.console import Console
from rich.segment import Segment

from app.cli.output.markdown_blocks import Blocks, highlight, parse

Row = list[Segment]
"""One line without its newline. A row of code may be wider than the terminal: it is not wrapped, so that it
can be copied."""

CONTEXT_LINES = 50  # final lines of a fence that are parsed again to highlight the next ones
_LISTS = ("bullet_list_open", "ordered_list_open")
_INDENT = re.compile(r" {0,3}(?! )")


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest part that becomes final: a top-level block, or one item of a top-level list."""

    tokens: list[Token]
    first_line: int
    continues: bool  # belongs to the same list as the previous unit: no blank row between them

    @property
    def is_code(self) -> bool:
        return self.tokens[0].type in ("fence", "code_block")


def _blocks(tokens: list[Token]) -> list[list[Token]]:
    blocks: list[list[Token]] = []
    for token in tokens:
        if token.level == 0 and token.nesting >= 0:
            blocks.append([])
        blocks[-1].append(token)
    return blocks


def _items(block: list[Token]) -> list[list[Token]]:
    """Splits a list into lists of one item."""
    items: list[list[Token]] = []
    for token in block[1:-1]:
        if token.type == "list_item_open" and token.level == 1:
            items.append([block[0]])
        items[-1].append(token)
    return [[*item, block[-1]] for item in items]


def _line_of(tokens: list[Token]) -> int:
    """Returns the first line of a block, or of the item in a list made by `_items`."""
    first = tokens[1] if tokens[0].type in _LISTS else tokens[0]
    assert first.map is not None, "block tokens have line numbers"
    return first.map[0]


def _stand_alone(items: list[list[Token]], lines: list[str]) -> bool:
    """Returns whether each item can be parsed on its own: only if all have the same indentation."""
    indents = [_INDENT.match(lines[_line_of(item)]) for item in items]
    return all(indents) and len({indent and indent.end() for indent in indents}) == 1


def _units(source: str) -> list[Unit]:
    lines = source.split("\n")
    units = []
    for block in _blocks(parse(source)):
        items = _items(block) if block[0].type in _LISTS else [block]
        if not _stand_alone(items, lines):
            items = [block]
        units += [Unit(item, _line_of(item), continues=item is not items[0]) for item in items]
    return units


def _trimmed(row: Row) -> Row:
    """Returns the row without trailing blanks, so that a copied line has none."""
    row = [segment for segment in row if not segment.control]
    while row and not row[-1].text.strip(" "):
        row.pop()
    if row:
        row[-1] = Segment(row[-1].text.rstrip(" "), row[-1].style)
    return row


class MarkdownStream:
    """Markdown that grows by `feed`. `take` returns each final row once, and `live` the remaining rows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = ""  # source that is not final; for an open fence, its first line and some context
        self._shown_lines = 0  # final lines of that fence's context
        self._continues = True  # no blank row before the tail

    def feed(self, text: str) -> None:
        self._tail += text

    def take(self, width: int) -> list[Row]:
        source = self._tail[: self._tail.rfind("\n") + 1]
        units = _units(source)
        if not units:
            return []
        *done, last = units
        rows = self._rows(done, width)
        self._drop_lines(last.first_line)
        self._continues |= last.continues
        if last.tokens[0].type == "fence":
            rows += self._take_code(last, width)
        return rows

    def live(self, width: int) -> list[Row]:
        """Returns the rows that are not final. Does not change the state."""
        kept = self._shown_lines, self._continues
        rows = self._rows(_units(self._tail), width)
        self._shown_lines, self._continues = kept
        return rows

    def finish(self, width: int) -> list[Row]:
        rows = self.take(width) + self.live(width)
        self._tail = ""
        return rows

    def _drop_lines(self, count: int) -> None:
        self._tail = self._tail.split("\n", count)[count]

    def _take_code(self, fence: Unit, width: int) -> list[Row]:
        """Returns the complete lines of an open fence, without trailing blank lines, which may end it."""
        rows = self._rows([fence], width)
        code = fence.tokens[0].content.rstrip()
        final = code.count("\n") + 1 if code else 0
        self._shown_lines = min(final, CONTEXT_LINES)
        self._continues |= final > 0
        opening, *lines = self._tail.split("\n")
        self._tail = "\n".join([opening, *lines[final - self._shown_lines :]])
        return rows

    def _rows(self, units: list[Unit], width: int) -> list[Row]:
        rows: list[Row] = []
        for unit in units:
            fresh = self._code(unit.tokens[0]) if unit.is_code else self._block(unit, width)
            if fresh and not (unit.continues or self._continues):
                rows.append([])
            rows += fresh
            self._continues = self._continues and not fresh and not self._shown_lines
            self._shown_lines = 0
        return rows

    def _code(self, token: Token) -> list[Row]:
        if not token.content.strip():
            return []
        lines = highlight(token.content, token.info.partition(" ")[0]).split("\n", allow_blank=True)
        return [_trimmed(list(line.render(self._console))) for line in lines[self._shown_lines :]]

    def _block(self, unit: Unit, width: int) -> list[Row]:
        """Lays out list items one by one, also if they become final together: the result must be the same."""
        pieces = _items(unit.tokens) if unit.tokens[0].type in _LISTS else [unit.tokens]
        return [row for piece in pieces for row in self._piece(piece, width)]

    def _piece(self, tokens: list[Token], width: int) -> list[Row]:
        options = self._console.options.update(width=width, height=None)
        rows = [_trimmed(row) for row in self._console.render_lines(Blocks(tokens), options, pad=False)]
        while rows and not rows[-1]:
            rows.pop()
        while rows and not rows[0]:
            rows.pop(0)
        return rows
