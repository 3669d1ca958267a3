"""Reads the figures that a server reports."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from app.models.metrics.reporter import MetricsReporter


class Figures:
    """The samples of one report."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {sample.name for family in self.families for sample in family.samples}

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels among theirs."""
        return sum(
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def figures_of(reporter: MetricsReporter) -> Figures:
    return Figures(asyncio.run(reporter.report()).decode())
