"""Composes training conversations from all topics, remembered facts, personas and typing noise.

This is the only module that knows every topic. A conversation depends on its random generator alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from app.builtin.training.corpus.intents import data_table
from app.builtin.training.corpus.noise import as_typed
from app.builtin.training.corpus.persona import Persona, normal_again, persona
from app.builtin.training.corpus.recall import FactMemory
from app.builtin.training.corpus.topic import Exchange, Topic
from app.builtin.training.corpus.topics import (
    arithmetic,
    capitals,
    code,
    commands,
    facts,
    smalltalk,
    spelling,
    unknown,
)

TOPICS: dict[str, tuple[Topic, int]] = {
    "smalltalk": (smalltalk.exchanges, 17),
    "capitals": (capitals.exchanges, 17),
    "facts": (facts.exchanges, 14),
    "commands": (commands.exchanges, 15),
    "code": (code.exchanges, 5),
    "unknown": (unknown.exchanges, 13),
    "arithmetic": (arithmetic.exchanges, 18),
    "spelling": (spelling.exchanges, 20),
}
_MEMORY_SHARES = (0.0, 0.15, 0.3, 0.3, 0.45, 0.7)
_FACTS_AT_MOST = 7
_SUMMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class TrainingConversation:
    """An optional system prompt, and exchanges of messages as typed and their right replies."""

    system: str | None
    exchanges: list[Exchange]

    def messages(self) -> list[dict[str, str]]:
        """Returns the conversation as a list of messages for a chat template."""
        opening = [{"role": "system", "content": self.system}] if self.system is not None else []
        return opening + [
            {"role": role, "content": content}
            for exchange in self.exchanges
            for role, content in (("user", exchange.user), ("assistant", exchange.reply))
        ]


def topic_stretch(rng: random.Random, held_out: bool = False) -> tuple[str, list[Exchange]]:
    """Returns the name of a random topic, and a few consecutive exchanges about it."""
    weights = [weight for _, weight in TOPICS.values()]
    chosen = rng.choices(list(TOPICS), weights)[0]
    return chosen, TOPICS[chosen][0](rng, held_out)


def _memory_exchange(rng: random.Random, memory: FactMemory) -> Exchange:
    if not memory.told:
        first = (memory.tell, memory.tell_many, memory.ask_untold, memory.sum_up)
        return rng.choices(first, (60, 22, 15, 3))[0]()
    moves: tuple[Callable[[], Exchange], ...] = (
        memory.recall, memory.tell, memory.tell_many, memory.ask_untold, memory.correct, memory.confirm,
        memory.sum_up, memory.spell_name,
    )  # fmt: skip
    count = len(memory.told)
    room, is_summed = count < _FACTS_AT_MOST, count <= _SUMMED_AT_MOST
    weights = (48, 17 * room, 5 * room, 12, 6, 5, 6 * is_summed, 1)
    return rng.choices(moves, weights)[0]()


def _again(rng: random.Random, previous: Exchange | None) -> list[Exchange]:
    if previous is None or "```" in previous.reply:
        return []
    forms = data_table("memory.toml")
    if rng.random() < 0.5:
        return [Exchange(rng.choice(forms["again"]), previous.reply)]
    return [Exchange(rng.choice(forms["what_i_said"]), f'You said: "{previous.user}"')]


class _Composer:
    """Builds one conversation, exchange by exchange."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out
        self.memory = FactMemory(rng, held_out)
        self.memory_share = rng.choice(_MEMORY_SHARES)
        self.persona: Persona | None = None
        self.exchanges: list[Exchange] = []

    def compose(self, count: int) -> TrainingConversation:
        """Returns a conversation of `count` exchanges."""
        system = None
        if self.rng.random() < 0.36:
            system = self._begin_with(persona(self.rng, self.held_out))
        while len(self.exchanges) < count:
            self._extend()
        return TrainingConversation(system, self.exchanges[:count])

    def _extend(self) -> None:
        dice = self.rng.random()
        if dice < 0.018:
            self._change_persona()
        elif dice < 0.032:
            self._add(_again(self.rng, self.exchanges[-1] if self.exchanges else None), True, is_styled=True)
        elif self.persona and self.persona.own and dice < 0.2:
            self._add([self.rng.choice(self.persona.own)], False, is_styled=True)
        elif self.rng.random() < self.memory_share:
            self._add([_memory_exchange(self.rng, self.memory)], True)
        else:
            topic, stretch = topic_stretch(self.rng, self.held_out)
            self._add(stretch, topic == "spelling")

    def _change_persona(self) -> None:
        if self.persona is not None:
            self.persona = None
            self._add([normal_again(self.rng)], False)
            return
        new = persona(self.rng, self.held_out)
        self._add([Exchange(new.order, new.agreed)], True)
        self._adopt(new)

    def _begin_with(self, new: Persona) -> str:
        self._adopt(new)
        is_typed = self.rng.random() < 0.2
        return as_typed(self.rng, new.prompt, new.agreed, is_copied=True) if is_typed else new.prompt

    def _adopt(self, new: Persona) -> None:
        self.persona = new
        if new.user is not None:
            self.memory.know_name(new.user)

    def _add(self, stretch: list[Exchange], is_copied: bool, is_styled: bool = False) -> None:
        for exchange in stretch:
            reply: str | None = exchange.reply
            if self.persona is not None and not is_styled:
                reply = self.persona.restyle(exchange)
            if reply is not None:
                user = as_typed(self.rng, exchange.user, exchange.reply, is_copied)
                self.exchanges.append(Exchange(user, reply, exchange.check))


def conversation(rng: random.Random, count: int, held_out: bool = False) -> TrainingConversation:
    """Returns a conversation of `count` exchanges."""
    return _Composer(rng, held_out).compose(count)
