"""What a person tells in a conversation and asks for again, corrected or summed up.

Owns the facts told so far in one conversation; what lies between telling and asking is `conversation`'s.
"""

import random
from dataclasses import dataclass, field

from app.builtin.corpus.facts_told import Kind, kinds
from app.builtin.corpus.intents import data_table
from app.builtin.corpus.topic import Exchange
from app.builtin.corpus.words import name

_ALSO = ["{a} {b}", "{a} And {b}", "{a} Also, {b}", "{a} {b}"]
_OTHERS_SHARE = 0.15
_NOTHING = "You have not told me anything about yourself yet."


@dataclass(frozen=True, slots=True)
class Fact:
    """One told fact: its kind, what it is about, and its value as the person wrote it."""

    kind: Kind
    thing: str
    value: str

    def fill(self, template: str) -> str:
        """`template` with this fact's thing and value."""
        return template.format(k=self.thing, v=self.value)

    def opens(self, template: str) -> str:
        """`fill`, starting with a capital letter unless the value itself is what starts it."""
        text = self.fill(template)
        return text if template.startswith("{v}") else text[:1].upper() + text[1:]


@dataclass(slots=True)
class Memory:
    """The facts of one conversation, by what they are about."""

    rng: random.Random
    held_out: bool = False
    told: dict[tuple[str, str], Fact] = field(default_factory=dict)

    def _forms(self, trained: tuple[str, ...], held: tuple[str, ...]) -> str:
        return self.rng.choice(held if self.held_out else trained)

    def _any_kind(self, table: str, first: int = 0) -> Kind:
        chosen = kinds(table)[first:]
        return self.rng.choices(chosen, [kind.weight for kind in chosen])[0]

    def _new_fact(self, kind: Kind | None = None) -> Fact:
        if kind is None:
            kind = self._any_kind("other" if self.rng.random() < _OTHERS_SHARE else "kind")
        is_other = kind in kinds("other")
        thing = name(self.rng, self.held_out) if is_other else self.rng.choice(kind.things)
        value = kind.value(self.rng, self.held_out)
        if self.rng.random() < 0.12:
            value = value.lower()
        return Fact(kind, thing, value)

    @staticmethod
    def _slot(fact: Fact) -> tuple[str, str]:
        return fact.kind.key, fact.thing.replace("color", "colour")

    def _statement(self, fact: Fact) -> str:
        return fact.opens(self._forms(fact.kind.tells, fact.kind.held_tells))

    def _acknowledgement(self, fact: Fact) -> str:
        return fact.opens(self.rng.choice(fact.kind.replies))

    def know_name(self, value: str) -> None:
        """The person's name, learnt in some other way than by `tell`."""
        fact = Fact(kinds("kind")[0], "", value)
        self.told[self._slot(fact)] = fact

    def tell(self, kind: Kind | None = None) -> Exchange:
        """The person tells one new fact."""
        fact = self._new_fact(kind)
        self.told[self._slot(fact)] = fact
        return Exchange(self._statement(fact), self._acknowledgement(fact), fact.value)

    def tell_two(self) -> Exchange:
        """The person tells two facts in one message; the name comes first."""
        first, second = self._new_fact(kinds("kind")[0]), self._new_fact(self._any_kind("kind", first=1))
        self.told[self._slot(first)], self.told[self._slot(second)] = first, second
        a, b = self._statement(first), self._statement(second)
        if self.rng.random() < 0.5:
            a, b = a.rstrip(".") + " and", b if b.startswith("I") else b[0].lower() + b[1:]
        reply = f"Nice to meet you, {first.value}! {self._acknowledgement(second)}"
        return Exchange(self.rng.choice(_ALSO[:1] if a.endswith(" and") else _ALSO).format(a=a, b=b), reply)

    def recall(self, slot: tuple[str, str] | None = None) -> Exchange:
        """The person asks for a fact told before."""
        fact = self.told[slot or self.rng.choice(list(self.told))]
        if fact.thing in ("colour", "color"):
            fact = Fact(fact.kind, self.rng.choice(("colour", "color")), fact.value)
        user = fact.opens(self._forms(fact.kind.asks, fact.kind.held_asks))
        return Exchange(user, fact.opens(fact.kind.says), fact.value)

    def ask_untold(self) -> Exchange:
        """The person asks for something never told."""
        while True:
            fact = self._new_fact()
            if self._slot(fact) not in self.told and not self._is_ambiguous(fact):
                break
        user = fact.opens(self._forms(fact.kind.asks, fact.kind.held_asks))
        return Exchange(user, f"You have not told me {fact.fill(fact.kind.missing)} yet.", "not told me")

    def _is_ambiguous(self, fact: Fact) -> bool:
        """Whether another told fact could be meant: a hobby asked for, or any number or word."""
        keys = {kind for kind, _ in self.told}
        close = {
            "origin": {"city", "birthday"},
            "city": {"origin"},
            "likes": {"favourite"},
            "number": {"number"},
        }
        return bool(close.get(fact.kind.key, {fact.kind.key}) & keys) and fact.kind.key not in (
            "favourite",
            "pet",
        )

    def correct(self) -> Exchange:
        """The person replaces a fact told before."""
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
        """The person asks whether a fact is so; half of the time it is not."""
        fact = self.rng.choice([self.told[slot] for slot in self.told])
        said = fact.opens(fact.kind.says)
        if not said.startswith("Your "):
            return self.recall(self._slot(fact))
        is_true = self.rng.random() < 0.5
        guess = fact if is_true else Fact(fact.kind, fact.thing, fact.kind.value(self.rng, self.held_out))
        asked = (
            guess.fill(fact.kind.says).replace("Your", "Is my", 1).replace(" is ", " ", 1).rstrip(".") + "?"
        )
        is_true = guess.value.lower() == fact.value.lower()
        return Exchange(asked, f"{'Yes' if is_true else 'No'}, {said[0].lower()}{said[1:]}", fact.value)

    def sum_up(self) -> Exchange:
        """The person asks for everything; the answer lists the facts in the order they were told."""
        user = self.rng.choice(data_table("memory.toml")["held_summary" if self.held_out else "summary"])
        known = " ".join(fact.opens(fact.kind.says) for fact in self.told.values())
        return Exchange(user, known or _NOTHING)


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """A fact told and asked for at once: the shortest stretch of memory."""
    memory = Memory(rng, held_out)
    return [memory.tell(), memory.recall()]
