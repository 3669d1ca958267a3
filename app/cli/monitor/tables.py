"""Formats what a server does as tables: its models, its open requests and its last failures."""

from typing import TYPE_CHECKING

from app.cli.output.formatting import first_words, format_age, format_size
from app.models.schemas import ActivityResponse, FailureEntry, ModelActivity, RequestEntry

if TYPE_CHECKING:  # slow to import, and not needed for the first prompt
    from rich.table import Table

MAX_REQUESTS, MAX_FAILURES = 20, 5
_GAP = 2  # cells between two columns
_NUMBERS = {"running", "waiting", "KV cache", "memory", "tokens/s", "tokens", "age", "prompt", "reply"}
_STAGES = {"model": "waits for the model", "prompt": "waits for its first token", "reply": "answers"}


def activity_tables(now: ActivityResponse, speeds: dict[str, float] | None, width: int) -> "list[Table]":
    """Returns the tables that have rows. `speeds` are the tokens a second of each model, if known."""
    tables = [_models(now.models, speeds)]
    tables += [_requests(now.requests)] if now.requests else []
    tables += [_failures(now.failures, width)] if now.failures else []
    return tables if now.models else tables[1:]


def speeds_between(before: ActivityResponse, now: ActivityResponse) -> dict[str, float]:
    """Returns the tokens a second that each model generated between two reports of one run of a server."""
    passed_s = now.uptime - before.uptime
    generated = {model.name: model.generated_tokens for model in before.models}
    if passed_s <= 0:
        return {}
    return {
        model.name: (model.generated_tokens - generated.get(model.name, 0)) / passed_s for model in now.models
    }


def _table(*headings: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", overflow="fold")
    return table


def _models(models: list[ModelActivity], speeds: dict[str, float] | None) -> "Table":
    amount = "tokens" if speeds is None else "tokens/s"
    table = _table("model", "state", "running", "waiting", "KV cache", "memory", amount)
    for model in models:
        memory = format_size(model.memory_bytes) if model.memory_bytes else "-"  # none: it is remote
        generated = f"{model.generated_tokens:,}" if speeds is None else f"{speeds.get(model.name, 0):,.1f}"
        table.add_row(
            model.name,
            model.status,
            str(model.running),
            str(model.waiting),
            f"{model.kv_used:.0%}",
            memory,
            generated,
        )
    return table


def _requests(requests: list[RequestEntry]) -> "Table":
    table = _table("request", "model", "age", "prompt", "reply", "state")
    for request in requests[:MAX_REQUESTS]:
        table.add_row(
            first_words(request.request_id, 24),
            request.model_name or "-",
            f"{request.age_s:.1f} s",
            f"{request.prompt_tokens:,}",
            f"{request.completion_tokens:,}",
            _STAGES[request.stage],
        )
    if len(requests) > MAX_REQUESTS:
        table.add_row(f"and {len(requests) - MAX_REQUESTS} more")
    return table


def _failures(failures: list[FailureEntry], width: int) -> "Table":
    table = _table("failed", "request", "model", "error")
    rows = [
        (format_age(one.timestamp.timestamp()), first_words(one.request_id, 24), one.model_name or "-")
        for one in failures[:MAX_FAILURES]
    ]
    taken = sum(max(map(len, cells)) + _GAP for cells in zip(*rows, strict=True))
    for row, failure in zip(rows, failures, strict=False):
        table.add_row(*row, first_words(f"{failure.code}: {failure.message}", max(20, width - taken)))
    return table
