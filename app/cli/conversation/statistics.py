"""Collects token counts and speeds of the answers of this session, by model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.cli.conversation.answer import Answer
from app.cli.output.formatting import sparkline
from app.models.schemas import ChatResponse

if TYPE_CHECKING:  # slow to import, and not needed for the first prompt
    from rich.table import Table

_HEADINGS = ("Answers", "Tokens", "Tokens/s", "First token", "Prompt", "Cached")
SPARKLINE_ANSWERS = 40


class Statistics:
    def __init__(self) -> None:
        self.answers: list[ChatResponse] = []

    def add(self, answer: Answer) -> None:
        if answer.done is not None and answer.done.usage is not None:
            self.answers.append(answer.done)

    @property
    def speeds(self) -> list[float]:
        """Returns the tokens per second of each answer, in order, except answers too short to measure."""
        return _speeds(self.answers)

    def table(self) -> "Table":
        """Returns a table with one column per model, in the order of their first answers."""
        from rich.table import Column, Table

        heading = Column("Model", no_wrap=True)
        table = Table(heading, box=None, header_style="bold", pad_edge=False)
        columns = []
        for name in dict.fromkeys(answer.model_name for answer in self.answers):
            table.add_column(name, justify="right", overflow="fold")
            columns.append(_cells([answer for answer in self.answers if answer.model_name == name]))
        for row in zip(_HEADINGS, *columns, strict=True):
            table.add_row(*row)
        return table

    def sparkline(self) -> str:
        return sparkline(self.speeds[-SPARKLINE_ANSWERS:])


def _cells(answers: Sequence[ChatResponse]) -> list[str]:
    speeds = _speeds(answers)
    usages = [answer.usage for answer in answers if answer.usage is not None]
    waits = [answer.timings.first_token_s for answer in answers if answer.timings is not None]
    prompt = sum(usage.prompt_tokens for usage in usages)
    cached = sum(usage.cached_tokens for usage in usages)
    return [
        f"{len(answers):,}",
        f"{sum(usage.completion_tokens for usage in usages):,}",
        f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-",
        f"{sum(waits) / len(waits):.2f} s",
        f"{prompt:,}",
        f"{cached / prompt:.0%}" if prompt else "-",
    ]


def _speeds(answers: Sequence[ChatResponse]) -> list[float]:
    timings = [answer.timings for answer in answers if answer.timings is not None]
    return [timing.tokens_per_second for timing in timings if timing.tokens_per_second is not None]
