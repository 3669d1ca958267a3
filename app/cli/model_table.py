"""Owns how models are named and listed: a name never hides what really serves it."""

from pathlib import PurePath

from rich.table import Table

from app.models.schemas import HealthResponse, ModelEntry

WIDE = 110  # columns that the whole table needs
_SYMBOLS = {"loaded": "✅ ", "loading": "⏳ ", "failed": "❌ ", "available": ""}


def served_from(model_id: str) -> str:
    """A Hub repository as it is; of a local folder the end of its path."""
    path = PurePath(model_id)
    return f"…/{path.parent.name}/{path.name}" if path.is_absolute() else model_id


def current_model_line(health: HealthResponse) -> str:
    model = health.model
    if model is None or health.current_model is None:
        return "Current model: none"
    if model.model_id is None:
        return f"Current model: {model.name} ({model.error or model.status})"
    origin = "" if model.model_id == model.name else f" (served from {served_from(model.model_id)})"
    return f"Current model: {model.name}{origin}"


def size_of(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def model_table(models: list[ModelEntry], symbols: bool, width: int) -> Table:
    """Where the terminal is narrow, what a model is served from stands below its description."""
    table = Table()
    for heading in ("Model", "Status"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Size", "Context"):
        table.add_column(heading, no_wrap=True, justify="right")
    last = ("Served from", "Description") if width >= WIDE else ("Description, served from",)
    for heading in last:
        table.add_column(heading, overflow="fold")
    for model in models:
        told = _told(model) if width >= WIDE else ("\n".join(reversed(_told(model))),)
        facts = (size_of(model.size_bytes), f"{model.context_length:,}")
        style = "bold" if model.is_current else ""
        table.add_row(model.name, _status(model, symbols), *facts, *told, style=style)
    return table


def _told(model: ModelEntry) -> tuple[str, str]:
    failure = "" if model.error is None else f" (failed: {model.error})"
    return served_from(model.model_id), f"{model.description}{failure}"


def _status(model: ModelEntry, symbols: bool) -> str:
    word = model.status.capitalize()
    if model.progress is not None:
        word = f"{model.progress.stage} {model.progress.fraction:.0%}"
    elif model.status == "available" and not model.is_on_disk:
        word = "To download"
    return f"{_SYMBOLS[model.status] if symbols else ''}{word}"
