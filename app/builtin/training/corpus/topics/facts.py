"""Plain facts, such as opposites, quantities and definitions, each with one fixed answer."""

import random

from app.builtin.training.corpus.intents import Intent, intent_set
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.wrapping import sometimes_wrapped, wrapped

ANOTHER_SHARE = 0.3


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns a question about one fact, sometimes followed by a second one of the same kind."""
    intent = intent_set("facts.toml").opener(rng)
    count = 2 if rng.random() < ANOTHER_SHARE else 1
    return [_fact(intent, rng, held_out) for _ in range(count)]


def _fact(intent: Intent, rng: random.Random, held_out: bool) -> Exchange:
    """Returns one question. In the evaluation, a fact without held-out wordings gets a held-out sentence."""
    exchange = intent_set("facts.toml").exchange(intent, rng, held_out, set())
    if not held_out:
        return sometimes_wrapped(exchange, rng)
    return exchange if intent.held_out else wrapped(exchange, rng, held_out)
