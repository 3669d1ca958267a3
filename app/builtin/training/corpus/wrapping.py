"""Adds the words that people put around a question. All topics share them, so they do not hint at a topic."""

import random
from dataclasses import replace
from functools import cache

from app.builtin.training.corpus.intents import data_table, expand
from app.builtin.training.corpus.topic import Exchange

WRAPPED_SHARE = 0.18


@cache
def openers() -> tuple[str, ...]:
    """Words that begin a question and are in lower case within a sentence."""
    return tuple(f"{word} " for word in data_table("wrappings.toml")["openers"])


def sometimes_wrapped(exchange: Exchange, rng: random.Random) -> Exchange:
    """Returns the same exchange, its question sometimes put into a longer sentence."""
    is_question = exchange.user.startswith(openers())
    return wrapped(exchange, rng) if is_question and rng.random() < WRAPPED_SHARE else exchange


def wrapped(exchange: Exchange, rng: random.Random, held_out: bool = False) -> Exchange:
    question = exchange.user
    lowered = question[:1].lower() + question[1:] if question.startswith(openers()) else question
    templates = data_table("wrappings.toml")["held_out_wrappings" if held_out else "wrappings"]
    template = expand(rng.choice(templates), rng)
    return replace(exchange, user=template.replace("{question}", lowered).replace("{Question}", question))
