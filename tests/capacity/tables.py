"""Shows outcomes as tables."""

from collections.abc import Iterable

from rich.table import Table

from tests.capacity.check import Comparison
from tests.capacity.daily_users import Need
from tests.capacity.gpu_figures import CheckedRate
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Outcome
from tests.capacity.sizing import Sized
from tests.capacity.step_times import StepShape

_GB = 1e9


def outcomes_table(title: str, outcomes: Iterable[tuple[str, Outcome]]) -> Table:
    table = _table(
        title,
        "",
        *("turns/s", "reply tok/s", "first token p50, s", "p95, s", "gap, ms"),
        *("cached", "busy", "KV, GB", "refused"),
    )
    for name, outcome in outcomes:
        figures = outcome.figures
        table.add_row(
            name,
            f"{figures.turns / figures.seconds:.2f}",
            f"{figures.reply_tokens_per_s:.0f}",
            f"{figures.first_token_p50_s:.2f}",
            f"{figures.first_token_p95_s:.2f}",
            f"{1000 * figures.gap_s:.0f}",
            f"{figures.cached_share:.0%}",
            f"{outcome.busy_share:.0%}",
            f"{outcome.most_kv_bytes / _GB:.2f}",
            str(figures.refused),
        )
    return table


def sizes_table(title: str, sizes: Iterable[tuple[str, Sized | None]], price_per_hour: float | None) -> Table:
    """With a price of one replica's machine per hour, also what a million tokens of replies cost."""
    price = [] if price_per_hour is None else ["price of 1M tokens"]
    columns = ("conversations", "replicas", "GB of each", "p95, s", "gap, ms", "cached", "busy")
    table = _table(title, "", *columns, *price)
    for name, sized in sizes:
        if sized is None:
            table.add_row(name, "goal missed with any number")
            continue
        figures = sized.outcome.figures
        cost = [] if price_per_hour is None else [f"{sized.cost_per_million(price_per_hour):.2f}"]
        table.add_row(
            name,
            str(sized.scenario.workload.conversations),
            str(sized.scenario.replicas),
            f"{sized.memory_bytes / _GB:.2f}",
            f"{figures.first_token_p95_s:.2f}",
            f"{1000 * figures.gap_s:.0f}",
            f"{figures.cached_share:.0%}",
            f"{sized.outcome.busy_share:.0%}",
            *cost,
        )
    return table


def needs_table(title: str, needs: Iterable[Need]) -> Table:
    columns = ("turns/s", "conversations", "replicas", "GB in all", "reply tok/s", "database cores")
    table = _table(title, "daily users", *columns, "price of 1M tokens")
    for need in needs:
        table.add_row(
            f"{need.users:,}",
            f"{need.turns_per_s:,.2f}",
            f"{need.conversations:,}",
            f"{need.replicas:,}",
            f"{need.memory_bytes / _GB:,.1f}",
            f"{need.reply_tokens_per_s:,.0f}",
            f"{need.database_cores:.2f}",
            "" if need.price_per_million is None else f"{need.price_per_million:.2f}",
        )
    return table


def comparison_table(title: str, comparison: Comparison) -> Table:
    table = _table(title, "figure", "predicted", "measured", "difference")
    for name, predicted, measured in comparison.rows():
        difference = f"{predicted / measured - 1:+.0%}" if measured else ""
        table.add_row(name, f"{predicted:.4g}", f"{measured:.4g}", difference)
    return table


def rates_table(rates: Iterable[CheckedRate]) -> Table:
    table = _table(
        "prefill included, tok/s", "sequences sent together", "predicted", "measured", "difference"
    )
    for rate in rates:
        difference = f"{rate.predicted / rate.measured - 1:+.0%}"
        table.add_row(str(rate.sequences), f"{rate.predicted:.0f}", f"{rate.measured:.0f}", difference)
    return table


def costs_table(costs: ServerCosts) -> Table:
    """The durations of some steps, and the work of the server's processes around them, in milliseconds."""
    table = _table(f"{costs.model}, {costs.source}", "", "ms")
    for decodes, history in ((1, 100), (8, 100), (16, 100), (32, 100), (8, 1000)):
        seconds = costs.step.seconds(StepShape(decodes, 0, decodes, decodes * history, longest=history))
        table.add_row(f"{decodes} decodes after {history} tokens", f"{1000 * seconds:.2f}")
    for rows in (64, 256, 512):
        seconds = costs.step.seconds(StepShape(0, rows, 1, prefill_pairs=rows * rows / 2))
        table.add_row(f"prefill of {rows} tokens", f"{1000 * seconds:.2f}")
    host = costs.host
    for name, seconds in (
        ("API process, a request before its first token", host.request_s),
        ("API process, a request at its end", host.finish_s),
        ("API process, a token", host.token_s),
        ("worker, messages of a step", host.loop_s),
        ("preparing a prompt of 500 tokens", host.prepare_s + 500 * host.prepare_token_s),
        ("client, a request", host.client_request_s),
        ("client, a token", host.client_token_s),
    ):
        table.add_row(name, f"{1000 * seconds:.2f}")
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    return table
