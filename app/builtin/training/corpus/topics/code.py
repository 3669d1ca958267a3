"""Requests for short Python functions in many wordings, and for programs that the model does not know."""

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.builtin.training.corpus.intents import data_table, expand, fill
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.wrapping import sometimes_wrapped

AGAIN_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Snippet:
    """A function that the model is taught. After `code` has run, all expressions in `tests` are true."""

    name: str
    lead: str
    code: str
    tests: tuple[str, ...]
    do: str
    nouns: tuple[str, ...]
    weight: float

    @property
    def reply(self) -> str:
        return f"{self.lead}\n```python\n{self.code}\n```"

    @property
    def check(self) -> str:
        return f"def {self.name}("

    def words(self, rng: random.Random) -> dict[str, str]:
        """Words for the slots of a request, such as "calculates the factorial" or "factorial"."""
        do = expand(self.do, rng)
        name = rng.choice([self.name, self.name.replace("_", " ")])
        noun = rng.choice(self.nouns)
        return {"do": do, "does": _third_person(do), "to": f"to {do}", "noun": noun, "name": name}


@cache
def phrases() -> dict[str, Any]:  # TOML: strings, lists of strings, and the snippets
    return data_table("code.toml")


@cache
def functions() -> dict[str, Snippet]:
    """Returns all functions that the model is taught, by name."""
    snippets = (_snippet(entry) for entry in phrases()["snippet"])
    return {snippet.name: snippet for snippet in snippets}


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns a request for a function, in one or two steps, or for a program unknown to the model."""
    stretch = _stretch(rng, held_out)
    return stretch if held_out else [sometimes_wrapped(exchange, rng) for exchange in stretch]


def _stretch(rng: random.Random, held_out: bool) -> list[Exchange]:
    kind = rng.random()
    if kind < 0.2:
        return [_unknown(rng, held_out)]
    if kind < 0.5:
        stretch = [_help(rng, held_out), _request(rng, held_out, "wish")]
    else:
        stretch = [_request(rng, held_out, "ask")]
    if rng.random() < AGAIN_SHARE:
        stretch.append(_request(rng, held_out, "again"))
    return stretch


def function_request(name: str, rng: random.Random, held_out: bool = False) -> Exchange:
    """Returns a request for the function `name`, used by the evaluation."""
    snippet = functions()[name]
    template = _template(rng, "ask", held_out)
    return Exchange(fill(template, snippet.words(rng)), snippet.reply, snippet.check)


def _request(rng: random.Random, held_out: bool, key: str) -> Exchange:
    snippets = list(functions().values())
    snippet = rng.choices(snippets, weights=[snippet.weight for snippet in snippets])[0]
    return Exchange(fill(_template(rng, key, held_out), snippet.words(rng)), snippet.reply, snippet.check)


def _help(rng: random.Random, held_out: bool) -> Exchange:
    return Exchange(_template(rng, "help", held_out), phrases()["help_reply"], "what should it do")


def _unknown(rng: random.Random, held_out: bool) -> Exchange:
    prefix = "held_out_" if held_out else ""
    words = {
        "language": rng.choice(phrases()[f"{prefix}languages"]),
        "app": rng.choice(phrases()[f"{prefix}apps"]),
        "thing": rng.choice(phrases()["things"]),
    }
    question = fill(_template(rng, "unknown", held_out), words)
    return Exchange(question, phrases()["unknown_reply"], "don't know")


def _template(rng: random.Random, key: str, held_out: bool) -> str:
    return expand(rng.choice(phrases()[f"held_out_{key}" if held_out else key]), rng)


def _third_person(do: str) -> str:
    verb, _, rest = do.partition(" ")
    if verb.endswith("y"):
        verb = f"{verb[:-1]}ies" if verb[-2] not in "aeiou" else f"{verb}s"
    else:
        verb += "es" if verb.endswith(("s", "x", "ch", "sh", "do")) else "s"
    return f"{verb} {rest}"


def _snippet(entry: dict[str, Any]) -> Snippet:  # one TOML table
    return Snippet(
        name=entry["name"],
        lead=entry["lead"],
        code=entry["code"].strip(),
        tests=tuple(entry["test"]),
        do=entry["do"],
        nouns=tuple(entry["noun"]),
        weight=entry.get("weight", 1.0),
    )
