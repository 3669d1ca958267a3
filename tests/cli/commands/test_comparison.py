import io

from rich.console import Console

from app.cli.commands.comparison import Column, SideBySide


def _rows(columns: list[Column], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    rows = SideBySide(console, columns).finish(width)
    return ["".join(segment.text for segment in row).rstrip() for row in rows]


def _column(name: str, text: str, status: str = "") -> Column:
    column = Column(name)
    column.text, column.status = text, status
    return column


def test_comparison_is_side_by_side_and_wraps_code() -> None:
    long = "```\n" + "x" * 40 + "\n```"
    rows = _rows([_column("one", "- a\n- b", "2 tokens"), _column("two", long)], 63)
    assert rows == [
        "one                            │ two",
        " • a                           │ " + "x" * 30,
        " • b                           │ " + "x" * 10,
        "2 tokens                       │",
    ]


def test_narrow_comparison_is_one_below_the_other() -> None:
    rows = _rows([_column("one", "a\x1b[2J"), _column("two", "", "waiting...")], 40)
    assert rows == ["one", "a[2J", "", "two", "waiting...", ""]


def test_long_names_of_models_are_not_cut() -> None:
    names = [f"hf.co/example/Llama-3.2-1B-Instruct-GGUF:{form}" for form in ("Q4_K_M", "Q8_0")]
    rows = [row.split("│") for row in _rows([_column(name, "", "0 tokens") for name in names], 63)]
    assert ["".join(half).replace(" ", "") for half in zip(*rows, strict=True)] == [
        f"{name}0tokens" for name in names
    ]
    assert _rows([_column(names[0], "")] * 2, 30)[:2] == [names[0][:30], names[0][30:]]
