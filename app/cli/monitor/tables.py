"""Formats the activity of a server as tables: its models, its open requests and its last failures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.cli.output.formatting import first_words, format_age, format_size
from app.models.schemas import ActivityResponse, FailureEntry, ModelActivity, RequestEntry

if TYPE_CHECKING:  # slow to import, and not needed for the first prompt
    from rich.table import Table

MAX_REQUESTS, MAX_FAILURES = 20, 5
WIDE = 80  # terminal columns that all columns of a table need
_MIN_ERROR, _MAX_ID = 20, 24  # cells
_GAP = 2  # cells between two columns
_NUMBERS = {"running", "waiting", "KV cache", "memory", "tokens/s", "tokens", "age", "prompt", "reply"}
_STAGES = {"model": "waits for the model", "prompt": "waits for its first token", "reply": "answers"}


def activity_tables(now: ActivityResponse, speeds: dict[str, float] | None, width: int) -> "list[Table]":
    """Returns the tables that have rows, with fewer columns if the terminal is narrower than WIDE.

    `speeds` are the tokens a second of each model, if known.
    """
    tables = [_models(now.models, speeds, width)] if now.models else []
    tables += [_requests(now.requests, width)] if now.requests else []
    tables += [_failures(now.failures, width)] if now.failures else []
    return tables


def speeds_between(before: ActivityResponse, now: ActivityResponse) -> dict[str, float]:
    """Returns the tokens a second that each model generated between two reports of one run of a server."""
    passed_s = now.uptime - before.uptime
    generated = {model.name: model.generated_tokens for model in before.models}
    if passed_s <= 0:
        return {}
    return {
        model.name: (model.generated_tokens - generated.get(model.name, 0)) / passed_s for model in now.models
    }


def _table(rows: Sequence[dict[str, str]], dispensable: set[str], width: int) -> "Table":
    """Returns a table of the rows, whose keys are the headings, without the `dispensable` ones if narrow."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    headings = [heading for heading in rows[0] if width >= WIDE or heading not in dispensable]
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(heading, "") for heading in headings))
    return table


def _models(models: list[ModelActivity], speeds: dict[str, float] | None, width: int) -> "Table":
    rows = []
    for model in models:
        row = {"model": model.name, "state": model.status}
        row |= {
            "running": str(model.running),
            "waiting": str(model.waiting),
            "KV cache": f"{model.kv_used:.0%}",
        }
        row["memory"] = format_size(model.memory_bytes) if model.memory_bytes else "-"  # none: it is remote
        if speeds is None:
            row["tokens"] = f"{model.generated_tokens:,}"
        else:
            row["tokens/s"] = f"{speeds.get(model.name, 0):,.1f}"
        rows.append(row)
    return _table(rows, {"running", "waiting", "KV cache"}, width)


def _requests(requests: list[RequestEntry], width: int) -> "Table":
    rows = [
        {
            "request": first_words(request.request_id, _MAX_ID),
            "model": request.model_name or "-",
            "age": f"{request.age_s:.1f} s",
            "prompt": f"{request.prompt_tokens:,}",
            "reply": f"{request.completion_tokens:,}",
            "state": _STAGES[request.stage],
        }
        for request in requests[:MAX_REQUESTS]
    ]
    if len(requests) > MAX_REQUESTS:
        rows.append({"model": f"and {len(requests) - MAX_REQUESTS} more"})
    return _table(rows, {"request", "prompt", "reply"}, width)


def _failures(failures: list[FailureEntry], width: int) -> "Table":
    rows = []
    for failure in failures[:MAX_FAILURES]:
        row = {"failed": format_age(failure.timestamp.timestamp())}
        if width >= WIDE:
            row["request"] = first_words(failure.request_id, _MAX_ID)
            row["model"] = failure.model_name or "-"
        rows.append(row)
    taken = sum(max(len(row[heading]) for row in rows) + _GAP for heading in rows[0])
    for row, failure in zip(rows, failures, strict=False):
        row["error"] = first_words(f"{failure.code}: {failure.message}", max(_MIN_ERROR, width - taken))
    return _table(rows, set(), width)
