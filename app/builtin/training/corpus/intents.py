"""Reads intents from TOML: many ways to say one thing, and the replies to it.

In a template, `[a|b]` is a choice and `{slot}` is a word drawn from a row or from a list of words.
"""

import random
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import Any

from app.builtin.training.corpus.topic import Exchange

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
A_BEFORE_SLOT = re.compile(r"\b([Aa]) \{(\w+)\}")
WORD = re.compile(r"(?<![\w\\'/])[A-Za-z][a-z]{1,12}(?![\w'])")
FIRST_REPLY_SHARE = 0.7  # greedy decoding wants one dominant wording
FOLLOW_SHARE = 0.5
LONGEST_STRETCH = 5


def data_text(name: str) -> str:
    """Returns the text of a data file of this package."""
    return resources.files("app.builtin.training.corpus").joinpath("data", name).read_text(encoding="utf-8")


@cache
def data_words() -> tuple[str, ...]:
    """Returns all distinct words of the data files, in lower case, sorted."""
    folder = resources.files("app.builtin.training.corpus").joinpath("data")
    texts = (file.read_text(encoding="utf-8") for file in folder.iterdir())
    return tuple(sorted({found.lower() for text in texts for found in WORD.findall(text)}))


@cache
def data_table(name: str) -> dict[str, Any]:  # TOML tables are untyped until an Intent takes them
    return tomllib.loads(data_text(name))


def expand(template: str, rng: random.Random) -> str:
    """Replaces every `[a|b]` by one of its choices, the innermost first."""
    while "[" in template:
        template = CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), template)
    return template


def fill(template: str, words: dict[str, str]) -> str:
    """Fills the template's slots with `words`, and capitalises the first letter."""
    text = A_BEFORE_SLOT.sub(lambda slot: _with_article(slot[1], words[slot[2]]), template)
    text = SLOT.sub(lambda slot: words[slot[1]], text)
    return text[:1].upper() + text[1:]


def _with_article(article: str, word: str) -> str:
    return f"{article}n {word}" if word[:1].lower() in "aeio" else f"{article} {word}"


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing to say. Templates in `held_out` are for evaluation; training never uses them."""

    name: str
    ask: tuple[str, ...]
    reply: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    check: str | None = None
    rows: tuple[dict[str, str], ...] = ()
    follow: tuple[str, ...] = ()
    weight: float = 1.0
    uniform: bool = False

    def question(self, rng: random.Random, held_out: bool) -> str:
        templates = self.held_out if held_out and self.held_out else self.ask
        return expand(rng.choice(templates), rng)

    def answer(self, rng: random.Random, used: set[str]) -> str:
        """Returns a reply that is not in `used`, if one is left, and adds it there."""
        fresh = [reply for reply in self.reply if reply not in used] or list(self.reply)
        is_dominant = not self.uniform and rng.random() < FIRST_REPLY_SHARE
        chosen = fresh[0] if is_dominant else rng.choice(fresh)
        used.add(chosen)
        return expand(chosen, rng)


class IntentSet:
    """All intents of one topic."""

    def __init__(self, intents: list[Intent], slots: dict[str, list[str]]) -> None:
        self.by_name = {intent.name: intent for intent in intents}
        self.slots = slots
        self._openers = [intent for intent in intents if intent.weight > 0]
        self._cumulative = list(accumulate(intent.weight for intent in self._openers))
        self._answerable = [intent for intent in self._openers if intent.held_out]

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "IntentSet":  # TOML, as `data_table` reads it
        alike = table.get("like", {})
        intents = [_intent(entry, number, alike) for number, entry in enumerate(table["intent"])]
        return cls(intents, table.get("slots", {}))

    def opener(self, rng: random.Random, held_out: bool = False) -> Intent:
        """Returns a random intent to start with. For evaluation it is one that has held-out templates."""
        if held_out:
            return rng.choice(self._answerable)
        return rng.choices(self._openers, cum_weights=self._cumulative)[0]

    def words(self, intent: Intent, rng: random.Random) -> dict[str, str]:
        words = {name: expand(rng.choice(values), rng) for name, values in self.slots.items()}
        if intent.rows:
            words |= {name: expand(text, rng) for name, text in rng.choice(intent.rows).items()}
        return words

    def exchange(self, intent: Intent, rng: random.Random, held_out: bool, used: set[str]) -> Exchange:
        words = self.words(intent, rng)
        check = None if intent.check is None else SLOT.sub(lambda slot: words[slot[1]], intent.check)
        question = fill(intent.question(rng, held_out), words)
        return Exchange(question, fill(intent.answer(rng, used), words), check)

    def stretch(self, rng: random.Random, held_out: bool = False) -> list[Exchange]:
        """Returns an opening exchange, often with others that naturally follow it."""
        intent, used = self.opener(rng, held_out), set[str]()
        exchanges = [self.exchange(intent, rng, held_out, used)]
        while intent.follow and len(exchanges) < LONGEST_STRETCH and rng.random() < FOLLOW_SHARE:
            intent = self.by_name[rng.choice(intent.follow)]
            exchanges.append(self.exchange(intent, rng, held_out, used))
        return exchanges


@cache
def intent_set(file_name: str) -> IntentSet:
    """Returns the intents of a data file, which is read once."""
    return IntentSet.from_table(data_table(file_name))


def _alike(entry: dict[str, Any], templates: list[str]) -> tuple[str, ...]:  # one TOML table
    """Templates that many intents share, with this intent's name and purposes filled in."""
    purposes = f"[{'|'.join(entry['do'])}]" if "do" in entry else ""
    return tuple(text.replace("{command}", entry["name"]).replace("{do}", purposes) for text in templates)


def _intent(entry: dict[str, Any], number: int, alike: dict[str, Any]) -> Intent:  # one TOML table
    reply = entry["reply"]
    columns = entry.get("columns", ["a", "b", "c", "d"])
    shared = alike.get(entry.get("like", ""), {"ask": [], "held_out": []})
    return Intent(
        name=entry.get("name", f"intent-{number}"),
        ask=(*entry["ask"], *_alike(entry, shared["ask"])),
        reply=(reply,) if isinstance(reply, str) else tuple(reply),
        held_out=(*entry.get("held_out", ()), *_alike(entry, shared["held_out"])),
        check=entry.get("check"),
        rows=tuple(dict(zip(columns, row, strict=False)) for row in entry.get("rows", ())),
        follow=tuple(entry.get("follow", ())),
        weight=entry.get("weight", 1.0),
        uniform=entry.get("uniform", False),
    )
