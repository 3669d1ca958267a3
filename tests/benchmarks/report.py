"""Collects the figures, and presents them as a table and as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

_SECOND, _MILLISECONDS, _RATE, _RATIO, _COUNT, _MEGABYTES = "s", "ms", "tok/s", "×", "tokens", "MB"
_SCALES = {_MILLISECONDS: 1e3, _MEGABYTES: 1e-6}


@dataclass(frozen=True)
class Measure:
    """One row of the table. `streams` is the number of sequences by which the limit is multiplied."""

    key: str
    label: str
    unit: str
    streams: int | None = None


def _users(count: int) -> tuple[Measure, ...]:
    return (
        Measure(f"users{count}.decode", f"{count} users, all decoding", _RATE, count),
        Measure(f"users{count}.total", f"{count} users, total rate", _RATE),
        Measure(f"users{count}.first", f"{count} users, first token, turn 1", _MILLISECONDS),
        Measure(f"users{count}.later", f"{count} users, first token, turn 2", _MILLISECONDS),
        Measure(f"users{count}.gap", f"{count} users, gap between tokens", _MILLISECONDS),
    )


MEASURES = (
    Measure("single.decode", "one stream", _RATE, 1),
    Measure("single.share", "one stream, share of the engine's rate", _RATIO),
    Measure("single.first", "one stream, first token", _MILLISECONDS),
    Measure("single.step", "one stream, tokens per piece", _RATIO),
    *_users(8),
    *_users(32),
    *(Measure(f"turns.first{n}", f"turn {n}, first token", _MILLISECONDS) for n in range(1, 5)),
    Measure("turns.ratio", "turn 4, relative to turn 1", _RATIO),
    Measure("turns.prompt", "turn 4, prompt", _COUNT),
    Measure("turns.cached", "turn 4, cached part of the prompt", _COUNT),
    Measure("long.before", "gap between tokens before a long prompt", _MILLISECONDS),
    Measure("long.during", "gap during the long prompt", _MILLISECONDS),
    Measure("long.worst", "longest gap during the long prompt", _MILLISECONDS),
    Measure("long.ratio", "gap during the prompt, relative to before", _RATIO),
    Measure("long.first", "first token of the long prompt", _SECOND),
    Measure("start.health", "start to first answer", _SECOND),
    Measure("start.ready", "start to ready", _SECOND),
    Measure("start.first", "start to first token", _SECOND),
    Measure("switch.cold", "switch to a model on disk", _SECOND),
    Measure("switch.back", "switch back to a loaded model", _MILLISECONDS),
    Measure("memory.peak", "peak memory after load", _MEGABYTES),
    Measure("memory.beyond", "peak memory without the weights", _MEGABYTES),
)


@dataclass
class ModelReport:
    """All figures of one model, by target and by the measure's key, in seconds, bytes or tokens."""

    name: str
    weights_bytes: int
    bandwidth: float  # bytes per second
    limit: float | None = None  # tokens per second of one sequence; None: the weights fit the caches
    load_seconds: float = 0.0
    weights: str = ""  # the form of the layers' weights
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, target: str, figures: dict[str, float]) -> None:
        self.figures.setdefault(target, {}).update(figures)

    def limit_of(self, measure: Measure) -> float | None:
        return None if self.limit is None or measure.streams is None else self.limit * measure.streams

    def rows(self) -> list[Measure]:
        return [m for m in MEASURES if any(m.key in figures for figures in self.figures.values())]


@dataclass
class Report:
    machine: dict[str, object]
    plan: dict[str, object]
    models: list[ModelReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was skipped, and why
    failures: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self) | {"ratios": self._ratios()}, indent=1) + "\n")

    def _ratios(self) -> dict[str, dict[str, dict[str, float]]]:
        """Each rate divided by the model's limit, by model, target and measure."""
        return {
            model.name: {
                target: {
                    measure.key: figures[measure.key] / limit
                    for measure in MEASURES
                    if measure.key in figures and (limit := model.limit_of(measure)) is not None
                }
                for target, figures in model.figures.items()
            }
            for model in self.models
        }

    def table(self) -> Table:
        targets = list(dict.fromkeys(name for model in self.models for name in model.figures))
        table = Table(title=self._title(), caption="\n".join(self._remarks()), caption_justify="left")
        for heading in ("model", "measured"):
            table.add_column(heading, overflow="fold")
        for heading in ("unit", "limit", *targets):
            table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
        for model in self.models:
            for measure in model.rows():
                is_first = measure is model.rows()[0]
                table.add_row(model.name if is_first else "", *_cells(model, measure, targets))
            table.add_section()
        return table

    def _title(self) -> str:
        machine = self.machine
        return f"{machine['cpu']}, {machine['cores']} cores"

    def _remarks(self) -> list[str]:
        read = [f"{model.name} in {model.weights} {model.bandwidth / 1e9:.1f} GB/s" for model in self.models]
        limits = "In brackets: share of the limit, that is memory bandwidth over the weights read per token"
        return [f"{limits} ({', '.join(read)}).", *self.notes, *(f"Failed: {line}" for line in self.failures)]


def _cells(model: ModelReport, measure: Measure, targets: list[str]) -> list[str]:
    limit = model.limit_of(measure)
    cells = [measure.label, measure.unit, "" if limit is None else _number(limit)]
    for target in targets:
        value = model.figures.get(target, {}).get(measure.key)
        share = "" if limit is None or value is None else f" ({value / limit:.2f})"
        cells.append("" if value is None else _number(value * _SCALES.get(measure.unit, 1)) + share)
    return cells


def _number(value: float) -> str:
    """The number with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
