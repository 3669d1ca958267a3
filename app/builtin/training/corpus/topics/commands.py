"""Questions about this program: its abilities, commands, server and settings."""

import random

from app.builtin.training.corpus.intents import intent_set
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.wrapping import sometimes_wrapped


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns a few consecutive exchanges about the program."""
    stretch = intent_set("commands.toml").stretch(rng, held_out)
    return stretch if held_out else [sometimes_wrapped(exchange, rng) for exchange in stretch]
