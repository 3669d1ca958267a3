"""Plain facts: opposites, numbers of things, definitions and the like, each with one fixed answer."""

import random
from dataclasses import replace

from app.builtin.corpus.intents import expand, intent_set
from app.builtin.corpus.topic import Exchange

WRAPPED_SHARE = 0.25
ANOTHER_SHARE = 0.3
QUESTION_WORDS = ("What", "Which", "How", "Who", "Where", "When", "Why", "Is", "Can", "Does", "Are", "At")
WRAPPINGS = (
    "[Hi|Hello|Hey|Okay|Good|So|And|Now|Well|Thanks], {question}",
    "[Quick question|A question|My question|Tell me|Next question|Question|I ask you|Now a fact]: {question}",
    "[Can|Could] you tell me: {question}",
    "[I want to know|I would like to know|I wonder|I forgot|Please tell me|Do you know], {question}",
    "{question} [Please tell me.|Do you know it?|I forgot.|Tell me.|I need to know.]",
)
HELD_OUT_WRAPPINGS = (
    "A little question for you: {question}",
    "My daughter asks: {question}",
    "{question} I can't remember.",
)


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """One fact, sometimes a second one of the same kind."""
    facts, used = intent_set("facts.toml"), set[str]()
    intent = facts.opener(rng)
    exchange = facts.exchange(intent, rng, held_out, used)
    if rng.random() < WRAPPED_SHARE or (held_out and not intent.held_out):
        exchange = _wrapped(exchange, rng, held_out)
    if rng.random() < ANOTHER_SHARE:
        return [exchange, facts.exchange(intent, rng, held_out, used)]
    return [exchange]


def _wrapped(exchange: Exchange, rng: random.Random, held_out: bool) -> Exchange:
    """The question inside a sentence, as people put it."""
    if not exchange.user.startswith(QUESTION_WORDS):
        return exchange
    question = exchange.user[:1].lower() + exchange.user[1:]
    wrapping = expand(rng.choice(HELD_OUT_WRAPPINGS if held_out else WRAPPINGS), rng)
    text = wrapping.replace("{question}", question)
    return replace(exchange, user=text[:1].upper() + text[1:])
