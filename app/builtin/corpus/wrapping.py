"""The words people put around a question; every topic shares them, so that they give nothing away."""

import random
from dataclasses import replace

from app.builtin.corpus.intents import data_table, expand
from app.builtin.corpus.topic import Exchange

WRAPPED_SHARE = 0.12
LOWERED = tuple(
    f"{word} "
    for word in (
        *("What", "Which", "How", "Who", "Where", "When", "Why", "Whose", "Is", "Are", "Was", "Do", "Does"),
        *(
            "Did",
            "Can",
            "Could",
            "Will",
            "Would",
            "Should",
            "At",
            "In",
            "On",
            "Tell",
            "Name",
            "List",
            "Count",
        ),
        *("Explain", "Define", "Describe", "Give", "Show", "Write", "The", "Say", "Translate", "Calculate"),
    )
)


def sometimes_wrapped(exchange: Exchange, rng: random.Random) -> Exchange:
    """The same exchange, its question now and then inside a sentence."""
    is_question = exchange.user.startswith(LOWERED)
    return wrapped(exchange, rng) if is_question and rng.random() < WRAPPED_SHARE else exchange


def wrapped(exchange: Exchange, rng: random.Random, held_out: bool = False) -> Exchange:
    question = exchange.user
    lowered = question[:1].lower() + question[1:] if question.startswith(LOWERED) else question
    templates = data_table("wrappings.toml")["held_out_wrappings" if held_out else "wrappings"]
    template = expand(rng.choice(templates), rng)
    return replace(exchange, user=template.replace("{question}", lowered).replace("{Question}", question))
