"""Owns how models are named and listed: a name never hides what really serves it."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from app.cli.output.formatting import size_of
from app.cli.output.load_progress import progress_of
from app.cli.output.terminal import BAR_WIDTH, NARROW
from app.models.schemas import HealthResponse, LoadProgress, ModelEntry

if TYPE_CHECKING:  # slow to import, and not needed for the first prompt
    from rich.table import Table

WIDE = 110  # columns that the whole table needs
_SYMBOLS = {"loaded": "✅ ", "loading": "⏳ ", "failed": "❌ ", "available": ""}


def served_from(model_id: str) -> str:
    """A Hub repository as it is; of a local folder the end of its path."""
    path = PurePath(model_id)
    return f".../{path.parent.name}/{path.name}" if path.is_absolute() else model_id


def current_model_line(health: HealthResponse) -> str:
    model = health.model
    if model is None or health.current_model is None:
        return "Current model: none"
    if model.model_id is None:
        return f"Current model: {model.name} ({model.error or model.status})"
    origin = "" if model.model_id == model.name else f" (served from {served_from(model.model_id)})"
    return f"Current model: {model.name}{origin}"


def listed(models: Iterable[ModelEntry]) -> list[ModelEntry]:
    """In the order of the list: the current model last, where it stays on the screen."""
    return sorted(models, key=lambda model: model.is_current)


def loads_of(models: Iterable[ModelEntry]) -> list[LoadProgress]:
    """How far those are that load."""
    return [model.progress for model in models if model.progress is not None]


def model_table(models: Iterable[ModelEntry], symbols: bool, width: int, is_short: bool = False) -> "Table":
    """Where the terminal is narrow, the numbers and the origin stand below the description; in a short one
    neither does, and a model takes one line. Below NARROW it is short, and has no lines around the cells."""
    from rich.box import ASCII, HEAVY_HEAD
    from rich.table import Table

    if width < NARROW:
        is_short, symbols = True, False
        table = Table(box=None, pad_edge=False)
    else:
        table = Table(box=HEAVY_HEAD if symbols else ASCII)
    for heading in ("Model", "Status"):
        table.add_column(heading, no_wrap=True)
    if not is_short:
        _add_columns(table, width)
    for model in models:
        told = [] if is_short else _cells(model) if width >= WIDE else [_paragraph(model)]
        table.add_row(model.name, _status(model, symbols), *told, style="bold" if model.is_current else "")
    return table


def _add_columns(table: "Table", width: int) -> None:
    if width >= WIDE:
        for heading in ("Size", "Context"):
            table.add_column(heading, no_wrap=True, justify="right")
        table.add_column("Served from", overflow="fold")
    table.add_column("Description", overflow="fold")


def loads_table(loads: Sequence[LoadProgress], width: int) -> "Table":
    """A bar for each load. What nobody measured yet has no share."""
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table

    is_narrow = width < NARROW
    whole = [Column(no_wrap=True) for _ in range(1 if is_narrow else 2)]
    table = Table.grid(Column(overflow="fold"), *whole, padding=(0, 1))
    for progress in loads:
        step = progress_of(progress)
        bar = ProgressBar(None if step.fraction is None else 1.0, step.fraction or 0.0, BAR_WIDTH)
        share = "" if step.fraction is None else f"{step.fraction:.0%}"
        table.add_row(f"⏳ {step}", *([] if is_narrow else [bar]), share)
    return table


def _cells(model: ModelEntry) -> list[str]:
    context = f"{model.context_length:,}"
    size = "?" if model.size_bytes is None else size_of(model.size_bytes)
    return [size, context, served_from(model.model_id), model.description]


def _paragraph(model: ModelEntry) -> str:
    size, context, origin, description = _cells(model)
    return f"{description}\n{size}, context {context}, {origin}"


def _status(model: ModelEntry, symbols: bool) -> str:
    word = model.status.capitalize()
    if model.progress is not None:
        word = f"{model.progress.stage} {model.progress.fraction:.0%}"
    elif model.status == "available" and not model.is_on_disk:
        word = "To download"
    return f"{_SYMBOLS[model.status] if symbols else ''}{word}"
