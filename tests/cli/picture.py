"""Draws docs/terminal.svg from a real session: `python -m tests.cli.picture`."""

import io
import os
import sys
import tempfile
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import ROOT, free_port

TARGET = ROOT / "docs" / "terminal.svg"
COLUMNS, ROWS = 84, 30
TYPED = (  # a line, and what is on the screen once it was answered
    ("Hello, my name is Zofia.", "first"),
    ("What is my name?", "first"),
    ("A function that calculates the factorial of a number", "first"),
    ("/save factorial_help", "saved to"),
)
# Rich's own format without web fonts, so that the picture loads nothing.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px; \
line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" \
height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = _session(Path(folder))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, soft_wrap=True)
    svg = console.export_svg(title="python chat_cli.py", code_format=FORMAT, unique_id="t")
    TARGET.write_text(svg, encoding="utf-8")


def _session(folder: Path) -> Text:
    """What the terminal shows after everything in TYPED was answered."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    environ |= {
        "HOME": str(folder),
        "LLM_PORT": str(free_port()),
        "LLM_MODEL_NAME": "builtin",
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
    }
    command = [sys.executable, str(ROOT / "chat_cli.py")]
    with PseudoTerminal(command, environ, COLUMNS, ROWS, folder) as terminal:
        terminal.wait_for("You:")
        for line, shown in TYPED:
            times = terminal.text.count(shown) + 1
            terminal.type(line + "\r")
            terminal.wait_for(shown, times)
        return _styled(terminal.screen)


def _styled(screen: pyte.Screen) -> Text:
    """The rows from the greeting to the last one with text, in colour."""
    text = Text(end="")
    shown = [y for y, line in enumerate(screen.display) if line.strip()]
    begin = next(y for y in shown if screen.display[y].startswith("Welcome"))
    for y in range(begin, shown[-1] + 1):
        cells = [screen.buffer[y][x] for x in range(screen.columns)]
        while cells and cells[-1].data == " ":
            cells.pop()
        for cell in cells:
            text.append(cell.data, _style(cell))
        text.append("\n")
    return text


def _style(cell: pyte.screens.Char) -> str:
    colour = (
        ""
        if cell.fg == "default"
        else f"#{cell.fg}"
        if len(cell.fg) == 6
        else cell.fg.replace("bright", "bright_")
    )
    return f"{'bold ' if cell.bold else ''}{'italic ' if cell.italics else ''}{colour}".strip()


if __name__ == "__main__":
    main()
