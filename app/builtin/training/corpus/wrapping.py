"""The words people put around a question; every topic shares them, so that they give nothing away."""

import random
from dataclasses import replace
from functools import cache

from app.builtin.training.corpus.intents import data_table, expand
from app.builtin.training.corpus.topic import Exchange

WRAPPED_SHARE = 0.18


@cache
def openers() -> tuple[str, ...]:
    """Words that begin a question and are small inside a sentence."""
    return tuple(f"{word} " for word in data_table("wrappings.toml")["openers"])


def sometimes_wrapped(exchange: Exchange, rng: random.Random) -> Exchange:
    """The same exchange, its question now and then inside a sentence."""
    is_question = exchange.user.startswith(openers())
    return wrapped(exchange, rng) if is_question and rng.random() < WRAPPED_SHARE else exchange


def wrapped(exchange: Exchange, rng: random.Random, held_out: bool = False) -> Exchange:
    question = exchange.user
    lowered = question[:1].lower() + question[1:] if question.startswith(openers()) else question
    templates = data_table("wrappings.toml")["held_out_wrappings" if held_out else "wrappings"]
    template = expand(rng.choice(templates), rng)
    return replace(exchange, user=template.replace("{question}", lowered).replace("{Question}", question))
