"""Evaluates the built-in model on held-out questions: `python -m app.builtin.training.evaluate`.

Counts the right replies, and exits with status 1 if a measure misses its goal.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from app.builtin.training.answering import WEIGHTS, Answerer
from app.builtin.training.measures import MEASURES, Measure


@dataclass(frozen=True, slots=True)
class Score:
    """The result of one measure. `wrong` holds the last user message and the reply of each miss."""

    name: str
    right: int
    count: int
    goal: float
    wrong: list[tuple[str, str]]

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def is_reached(self) -> bool:
        return self.share >= self.goal


def score(measure: Measure, answerer: Answerer, seed: int = 0, part: float = 1.0) -> Score:
    """Returns the score for a share (`part`) of the measure's questions, which depend on the seed alone."""
    rng = random.Random(f"evaluation {measure.name} {seed}")
    questions = [measure.make(rng) for _ in range(max(1, round(measure.count * part)))]
    replies = answerer.replies([question.messages for question in questions])
    wrong = [
        (question.messages[-1]["content"], reply)
        for question, reply in zip(questions, replies, strict=True)
        if not question.is_right(reply)
    ]
    return Score(measure.name, len(questions) - len(wrong), len(questions), measure.goal, wrong)


def evaluate(answerer: Answerer, seed: int = 0, part: float = 1.0) -> list[Score]:
    """Returns the scores of all measures, and of how many replies ended with the end token."""
    scores = [score(measure, answerer, seed, part) for measure in MEASURES]
    return [*scores, Score("replies that end by themselves", answerer.ended, answerer.asked, 0.99, [])]


def _table(scores: list[Score]) -> Table:
    table = Table("measure", "right", "of", "share", "goal", "")
    for one in scores:
        verdict = "reached" if one.is_reached else "missed"
        table.add_row(
            one.name, str(one.right), str(one.count), f"{one.share:.1%}", f"{one.goal:.0%}", verdict
        )
    return table


def main() -> int:
    """Runs the evaluation. Returns 0 if every goal is reached, otherwise 1."""
    parser = argparse.ArgumentParser(description="Evaluate the built-in model on held-out questions.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=float, default=1.0, help="the share of the questions to ask")
    parser.add_argument(
        "--sampled", action="store_true", help="sample with the model's defaults instead of greedily"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--wrong", action="store_true", help="show the wrong replies")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    answerer = Answerer.from_folder(arguments.weights, is_greedy=not arguments.sampled)
    scores = evaluate(answerer, arguments.seed, arguments.part)
    console = Console()
    if arguments.json:
        console.print_json(json.dumps([asdict(one) for one in scores]))
    else:
        console.print(_table(scores))
        if arguments.wrong:
            for one in scores:
                for asked, reply in one.wrong:
                    console.print(f"{one.name}: {asked!r} -> {reply!r}", markup=False, highlight=False)
    return 0 if all(one.is_reached for one in scores) else 1


if __name__ == "__main__":
    sys.exit(main())
