"""Reads the dashboard of Grafana and the alert rules, and the names that they use."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.metrics.exposition import Figures
from tests.server import ROOT

DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
_NAME = re.compile(r"\b(?:vllm:|llm_|process_)[a-z0-9_]+")
_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
    "gauge": ("",),
}


@dataclass(frozen=True)
class Query:
    """An expression of a panel, with values for Grafana's variables."""

    panel: str
    expression: str


def queries() -> Iterator[Query]:
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "10s")
            yield Query(panel["title"], expression.replace("$model", ".*").replace("$job", ".*"))


def names_in(expression: str) -> set[str]:
    """The names of the figures in an expression."""
    return set(_NAME.findall(expression))


def exported_names(figures: Figures) -> set[str]:
    """The names of the samples that a server can report, also of those that it has none of yet."""
    return {
        f"{family.name}{suffix}"
        for family in figures.families
        for suffix in _SUFFIXES.get(family.type, ("",))
    }
