"""Exchanges about facts that the user tells and later asks for, corrects or wants summed up.

Keeps the facts of one conversation. The `composition` module decides what comes between telling and asking.
"""

import random
from dataclasses import dataclass, field

from app.builtin.training.corpus.fact_kinds import FactKind, kinds
from app.builtin.training.corpus.intents import data_table, expand
from app.builtin.training.corpus.topic import Exchange

_OTHERS_SHARE = 0.15
_FRAMED_SHARE = 0.25
_NEAR_SHARE = 0.4
_NAMED_THINGS = ("favourite", "pet", "relative", "anything", "age of", "home of", "job of", "place", "time")
_NOTHING = "You have not told me anything about yourself yet."


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: its kind, the thing it is about, and its value as the user wrote it."""

    kind: FactKind
    thing: str
    value: str

    def fill(self, template: str) -> str:
        """Returns the template with this fact's thing and value filled in."""
        if self.value[0] in "aeiou":
            template = template.replace("a {v}", "an {v}").replace("A {v}", "An {v}")
        return template.format(k=self.thing, v=self.value)

    def opens(self, template: str) -> str:
        """Returns the filled template, starting with a capital letter unless the value comes first."""
        text = self.fill(template)
        return text if template.startswith("{v}") else text[:1].upper() + text[1:]


def _inside(statement: str) -> str:
    """Returns the statement as it is written within a sentence."""
    is_plain = statement.startswith(
        ("My ", "The ", "We ", "This ", "Remember ", "Please ", "You ", "At ", "Note ")
    )
    return statement[0].lower() + statement[1:] if is_plain else statement


def _noted(facts: list[Fact]) -> str:
    """Returns a space and the sentence that the model will remember the facts; empty without facts."""
    if not facts:
        return ""
    said = [_inside_reply(fact).rstrip(".") for fact in facts]
    return f" I will remember that {' and that '.join(said)}."


def _inside_reply(fact: Fact) -> str:
    text = fact.fill(fact.kind.says)
    return text if fact.kind.says.startswith("{") else text[0].lower() + text[1:]


def _in_first_person(text: str) -> str:
    """Turns `how old you are` into what the user says: `how old I am`."""
    return text.replace("your", "my").replace("you are", "I am").replace("you", "I")


def _as_question(said: str) -> str:
    """Turns `You are a nurse.` into what the user asks: `Am I a nurse?`"""
    if said.startswith("Your "):
        said = said.replace("Your", "Is my", 1).replace(" is ", " ", 1)
    elif said.startswith("You are "):
        said = said.replace("You are", "Am I", 1)
    else:
        said = said.replace("You", "Do I", 1)
    return said.rstrip(".") + "?"


@dataclass(slots=True)
class FactMemory:
    """The facts of one conversation, by kind and thing, and the exchanges about them."""

    rng: random.Random
    held_out: bool = False
    told: dict[tuple[str, str], Fact] = field(default_factory=dict)

    def _forms(self, trained: tuple[str, ...], held: tuple[str, ...]) -> str:
        return expand(self.rng.choice(held if self.held_out else trained), self.rng)

    def _any_kind(self, table: str, first: int = 0) -> FactKind:
        chosen = kinds(table)[first:]
        return self.rng.choices(chosen, [kind.weight for kind in chosen])[0]

    def _new_fact(self, kind: FactKind | None = None) -> Fact:
        if kind is None:
            kind = self._any_kind("other" if self.rng.random() < _OTHERS_SHARE else "kind")
        thing = kind.thing(self.rng, self.held_out)
        value = kind.value(self.rng, self.held_out)
        dice = self.rng.random()
        if dice < 0.15:
            value = value.upper() if dice < 0.03 else value.lower()
        return Fact(kind, thing, value)

    @staticmethod
    def _slot(fact: Fact) -> tuple[str, str]:
        return fact.kind.key, fact.thing.replace("color", "colour")

    def _statement(self, fact: Fact) -> str:
        return fact.opens(self._forms(fact.kind.tells, fact.kind.held_tells))

    def _framed_statement(self, fact: Fact) -> str:
        """Returns the statement. In training it sometimes has meaningless words before or after it."""
        text = self._statement(fact)
        if self.held_out or self.rng.random() > _FRAMED_SHARE:
            return text
        frame = self.rng.choice(data_table("memory.toml")["tell_frames"])
        return str(frame.format(t=_inside(text), T=text))

    def _question(self, fact: Fact) -> str:
        """Returns a question about a fact. In training it may have an indirect form that all kinds share."""
        if self.held_out or self.rng.random() > _FRAMED_SHARE:
            return fact.opens(self._forms(fact.kind.asks, fact.kind.held_asks))
        frame = self.rng.choice(data_table("memory.toml")["ask_frames"])
        text = frame.format(i=_in_first_person(fact.fill(fact.kind.missing)))
        return str(text[0].upper() + text[1:])

    def _acknowledgement(self, fact: Fact) -> str:
        return fact.opens(self.rng.choice(fact.kind.replies))

    def know_name(self, value: str) -> None:
        """Records the user's name if it was learned from elsewhere, for example from a system prompt."""
        fact = Fact(kinds("kind")[0], "", value)
        self.told[self._slot(fact)] = fact

    def tell(self, kind: FactKind | None = None) -> Exchange:
        """The user tells one new fact."""
        fact = self._new_fact(kind)
        self.told[self._slot(fact)] = fact
        return Exchange(self._framed_statement(fact), self._acknowledgement(fact), fact.value)

    def tell_many(self) -> Exchange:
        """The user tells two or three facts in one message, often starting with the name."""
        is_introduced = self.rng.random() < 0.6
        first = self._new_fact(kinds("kind")[0]) if is_introduced else self._new_fact()
        facts = [first, *(self._new_fact() for _ in range(self.rng.choice((1, 1, 2))))]
        facts = list({self._slot(fact): fact for fact in facts}.values())
        self.told.update((self._slot(fact), fact) for fact in facts)
        if is_introduced and facts[0].kind.key == "name":
            return Exchange(self._together(facts), f"Nice to meet you, {facts[0].value}!{_noted(facts[1:])}")
        return Exchange(self._together(facts), _noted(facts).strip())

    def _together(self, facts: list[Fact]) -> str:
        """Returns all facts in one message: one sentence for each, or a single sentence."""
        if len(facts) > 1 and all(fact.kind.key == "pet" for fact in facts):
            return f"I have {' and '.join(fact.fill('a {k} called {v}') for fact in facts)}."
        statements = [self._statement(fact) for fact in facts]
        if self.rng.random() < 0.4:
            return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in statements)
        joined = self.rng.choice((" and ", ", and ", ", "))
        later = [_inside(text) for text in statements[1:]]
        return joined.join(text.rstrip(".") for text in [statements[0], *later]) + "."

    def recall(self, slot: tuple[str, str] | None = None) -> Exchange:
        """The user asks about a fact told earlier."""
        fact = self.told[slot or self.rng.choice(list(self.told))]
        if fact.thing in ("colour", "color"):
            fact = Fact(fact.kind, self.rng.choice(("colour", "color")), fact.value)
        user = self._question(fact)
        return Exchange(user, fact.opens(fact.kind.says), fact.value)

    def ask_untold(self) -> Exchange:
        """The user asks about a fact that was never told."""
        while True:
            fact = self._new_fact(self._kind_like_a_told_one() if self.rng.random() < _NEAR_SHARE else None)
            if self._slot(fact) not in self.told and not self._is_ambiguous(fact):
                break
        user = self._question(fact)
        return Exchange(user, f"You have not told me {fact.fill(fact.kind.missing)} yet.", "not told me")

    def _is_ambiguous(self, fact: Fact) -> bool:
        """Returns whether the question could mean another fact that was told, such as a hobby or a number."""
        keys = {kind for kind, _ in self.told}
        close = {
            "origin": {"city", "birthday"},
            "city": {"origin"},
            "likes": {"favourite"},
            "number": {"number"},
        }
        return bool(close.get(fact.kind.key, {fact.kind.key}) & keys) and fact.kind.key not in _NAMED_THINGS

    def _kind_like_a_told_one(self) -> FactKind | None:
        """Returns the kind of a told fact about a named thing: after a sister, one asks about a brother."""
        near = [fact.kind for fact in self.told.values() if fact.kind.key in _NAMED_THINGS]
        return self.rng.choice(near) if near else None

    def correct(self) -> Exchange:
        """The user corrects a fact told earlier."""
        old = self.rng.choice(list(self.told.values()))
        fact = Fact(old.kind, old.thing, old.kind.value(self.rng, self.held_out))
        self.told[self._slot(fact)] = fact
        statement = fact.fill(self.rng.choice(fact.kind.tells[:1]))
        user = self.rng.choice(data_table("memory.toml")["correction"]).format(
            t=statement[0].lower() + statement[1:]
        )
        said = fact.fill(fact.kind.says)
        return Exchange(user, f"Thank you for telling me. {said[:1].upper()}{said[1:]}", fact.value)

    def confirm(self) -> Exchange:
        """The user asks whether a fact is true; half of the time it is not."""
        fact = self.rng.choice([self.told[slot] for slot in self.told])
        said = fact.opens(fact.kind.says)
        if not said.startswith("You"):
            return self.recall(self._slot(fact))
        is_true = self.rng.random() < 0.5
        guess = fact if is_true else Fact(fact.kind, fact.thing, fact.kind.value(self.rng, self.held_out))
        asked = _as_question(guess.fill(fact.kind.says))
        is_true = guess.value.lower() == fact.value.lower()
        return Exchange(asked, f"{'Yes' if is_true else 'No'}, {said[0].lower()}{said[1:]}", fact.value)

    def spell_name(self) -> Exchange:
        """The user asks for the spelling of their own name, which may be unknown."""
        user = self.rng.choice(data_table("memory.toml")["spell_name"])
        known = self.told.get((kinds("kind")[0].key, ""))
        if known is None:
            return Exchange(user, "You have not told me your name yet.", "not told me")
        letters = "-".join(known.value.replace(" ", ""))
        return Exchange(user, f"{known.value} is spelled {letters}.", letters)

    def sum_up(self) -> Exchange:
        """The user asks for all facts; the reply lists them in the order in which they were told."""
        user = self.rng.choice(data_table("memory.toml")["held_summary" if self.held_out else "summary"])
        known = " ".join(fact.opens(fact.kind.says) for fact in self.told.values())
        return Exchange(user, known or _NOTHING)


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns one fact that is told and asked for at once."""
    memory = FactMemory(rng, held_out)
    return [memory.tell(), memory.recall()]
