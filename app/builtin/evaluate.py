"""The held-out evaluation: `python -m app.builtin.evaluate` asks what training never saw.

Counts right replies, and exits with 1 where a measure misses its goal. Names, numbers and phrasings come from
the corpus's held-out halves.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.builtin.corpus import (
    arithmetic,
    capitals,
    code,
    commands,
    facts,
    persona,
    smalltalk,
    spelling,
    unknown,
)
from app.builtin.corpus.facts_told import Kind, kinds
from app.builtin.corpus.memory import Memory
from app.builtin.corpus.topic import Exchange, Topic
from app.builtin.train import WEIGHTS

Message = dict[str, str]
_REPLY_TOKENS = 220
_BATCH = 32
_BETWEEN: tuple[Topic, ...] = (
    smalltalk.exchanges, capitals.exchanges, facts.exchanges, unknown.exchanges, arithmetic.exchanges,
    commands.exchanges, code.exchanges,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that waits for a reply, and how to tell whether the reply is right."""

    messages: list[Message]
    is_right: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Measure:
    """What is counted: a maker of questions, how many, and the share that must be right."""

    name: str
    make: Callable[[random.Random], Question]
    count: int
    goal: float


@dataclass(frozen=True, slots=True)
class Score:
    """One measure's outcome; `wrong` holds the last user message and the reply of each miss."""

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


def _messages(exchanges: list[Exchange], system: str | None = None) -> list[Message]:
    """The exchanges as a conversation whose last reply is still to come."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.user})
        messages.append({"role": "assistant", "content": exchange.reply})
    return messages[:-1]


def _contains(check: str) -> Callable[[str], bool]:
    return lambda reply: check.lower() in reply.lower()


def _equals(expected: str) -> Callable[[str], bool]:
    return lambda reply: reply.strip().lower() == expected.lower()


def _checked(topic: Topic) -> Callable[[random.Random], Question]:
    """Questions from a topic's held-out half, of the exchanges that say what a right reply contains."""

    def make(rng: random.Random) -> Question:
        while True:
            stretch = topic(rng, True)
            for end, exchange in enumerate(stretch, 1):
                if exchange.check is not None:
                    return Question(_messages(stretch[:end]), _contains(exchange.check))

    return make


def _between(rng: random.Random, count: int) -> list[Exchange]:
    found: list[Exchange] = []
    while len(found) < count:
        found += rng.choice(_BETWEEN)(rng, True)
    return found[:count]


def _recall(rng: random.Random, kind: Kind | None = None) -> Question:
    memory = Memory(rng, held_out=True)
    told = memory.tell(kind)
    asked = memory.recall()
    between = _between(rng, rng.randint(1, 3))
    return Question(_messages([told, *between, asked]), _contains(asked.check or ""))


def _recall_of_name(rng: random.Random) -> Question:
    return _recall(rng, kinds("kind")[0])


def _recall_of_two(rng: random.Random) -> Question:
    memory = Memory(rng, held_out=True)
    told = [memory.tell(), *_between(rng, 1), memory.tell()]
    asked = memory.recall()
    return Question(
        _messages([*told, *_between(rng, rng.randint(1, 2)), asked]), _contains(asked.check or "")
    )


def _never_told(rng: random.Random) -> Question:
    memory = Memory(rng, held_out=True)
    told = memory.tell()
    return Question(_messages([told, *_between(rng, 1), memory.ask_untold()]), _contains("have not told me"))


def _sum(operator: str) -> Callable[[random.Random], Question]:
    def make(rng: random.Random) -> Question:
        asked = arithmetic.calculation(rng, True, operator)
        return Question(_messages([asked]), _contains(asked.check or ""))

    return make


def _passes(tests: tuple[str, ...]) -> Callable[[str], bool]:
    def is_right(reply: str) -> bool:
        block = re.search(r"```python\n(.*?)```", reply, re.DOTALL)
        if block is None:
            return False
        names: dict[str, Any] = {}  # what the code defines can be anything
        try:
            exec(block[1], names)  # the block is one of a handful of functions the model was taught
            return all(eval(test, names) for test in tests)
        except Exception:
            return False

    return is_right


def _function(rng: random.Random) -> Question:
    snippet = rng.choice(list(code.functions().values()))
    asked = code.function_request(snippet.name, rng, held_out=True)
    return Question(_messages([asked]), _passes(snippet.tests))


def _in_style(key: str) -> Callable[[random.Random], Question]:
    def make(rng: random.Random) -> Question:
        style = persona.style(rng, True, key)
        while True:
            asked = rng.choice((capitals.exchanges, arithmetic.exchanges))(rng, True)[0]
            wanted = style.restyle(asked)
            if wanted is not None:
                return Question(_messages([asked], style.prompt), _equals(wanted))

    return make


def _given_name(rng: random.Random) -> Question:
    given = persona.named(rng, True)
    return Question(_messages([rng.choice(given.own)], given.prompt), _contains(given.own[0].check or ""))


def _alone(topic: Topic) -> Callable[[random.Random], Question]:
    def make(rng: random.Random) -> Question:
        asked = topic(rng, True)[0]
        return Question(_messages([asked]), _contains(asked.check or ""))

    return make


MEASURES = (
    Measure("recall across 1-3 turns", _recall, 300, 0.95),
    Measure("recall of a name", _recall_of_name, 150, 0.95),
    Measure("recall of one of two facts", _recall_of_two, 150, 0.9),
    Measure("asked for what was never told", _never_told, 100, 0.9),
    Measure("capitals", _checked(capitals.exchanges), 300, 0.95),
    Measure("plain facts", _checked(facts.exchanges), 200, 0.9),
    Measure("sums below 100", _sum("+"), 300, 0.95),
    Measure("differences below 100", _sum("-"), 150, 0.9),
    Measure("small products", _sum("*"), 100, 0.9),
    Measure("spelling and repeating", _alone(spelling.exchanges), 150, 0.9),
    Measure("Python that passes its test", _function, 150, 0.9),
    Measure("this program's commands", _checked(commands.exchanges), 150, 0.9),
    Measure("says that it does not know", _alone(unknown.exchanges), 200, 0.9),
    Measure("system prompt: one word", _in_style("one_word"), 60, 0.9),
    Measure("system prompt: upper case", _in_style("upper"), 60, 0.9),
    Measure("system prompt: pirate", _in_style("pirate"), 60, 0.9),
    Measure("system prompt: a name", _given_name, 60, 0.9),
)


class Answerer:
    """Replies of a model to many conversations; knows how many of them ended by themselves."""

    def __init__(self, folder: Path, is_greedy: bool = True) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._is_greedy = is_greedy
        self.ended = 0
        self.asked = 0

    def replies(self, conversations: list[list[Message]]) -> list[str]:
        """One reply each, in the order of `conversations`."""
        prompts = [
            self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for messages in conversations
        ]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, str] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            found.update(zip(chosen, self._generate([prompts[i] for i in chosen]), strict=True))
        return [found[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _generate(self, prompts: list[str]) -> Iterator[str]:
        inputs = self._tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
        )
        greedy = {"do_sample": False, "temperature": None, "top_p": None} if self._is_greedy else {}
        output = self._model.generate(**inputs, max_new_tokens=_REPLY_TOKENS, **greedy)
        replies = output[:, inputs["input_ids"].shape[1] :]
        self.asked += len(prompts)
        self.ended += int((replies == self._tokenizer.eos_token_id).any(dim=1).sum())
        return iter(self._tokenizer.batch_decode(replies, skip_special_tokens=True))


def score(measure: Measure, answerer: Answerer, seed: int = 0, part: float = 1.0) -> Score:
    """Asks `part` of the measure's questions; the same ones for the same seed."""
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
    """Every measure, and how many of all replies ended by themselves."""
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
    """The command line; the exit status says whether every goal is reached."""
    parser = argparse.ArgumentParser(description="Evaluate the built-in model on what it never saw.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=float, default=1.0, help="share of the questions to ask")
    parser.add_argument(
        "--sampled", action="store_true", help="with the model's sampling defaults, not greedy"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--wrong", action="store_true", help="show the replies that were wrong")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    answerer = Answerer(arguments.weights, is_greedy=not arguments.sampled)
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
