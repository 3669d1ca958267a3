"""Countries and their capitals: direct and reverse questions, follow-ups, and guesses to confirm."""

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.builtin.training.corpus.intents import data_table, data_text, expand, fill
from app.builtin.training.corpus.invention import made_up_place
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.wrapping import sometimes_wrapped

ALIAS_SHARE = 0.25
WELL_KNOWN_SHARE = 0.2
FOLLOW_SHARE = 0.4
NO_COUNTRY_FOLLOW_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Country:
    """A country. `name` includes its article; `aliases` occur in questions, never in replies."""

    name: str
    capital: str
    continent: str
    aliases: tuple[str, ...]

    def spoken(self, rng: random.Random) -> str:
        """Returns one of the names that a person may use for the country."""
        return rng.choice(self.aliases) if self.aliases and rng.random() < ALIAS_SHARE else self.name


@cache
def countries() -> tuple[Country, ...]:
    rows = (line.split("|") for line in data_text("countries.txt").splitlines())
    return tuple(Country(name, capital, continent, tuple(rest)) for name, capital, continent, *rest in rows)


@cache
def well_known() -> tuple[Country, ...]:
    return tuple(country for country in countries() if country.name in phrases()["well_known"])


@cache
def phrases() -> dict[str, Any]:  # TOML; every value is a string or a list of strings
    return data_table("capitals.toml")


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns a question about a capital or a country, often with follow-ups."""
    stretch = _stretch(rng, held_out)
    return stretch if held_out else [sometimes_wrapped(exchange, rng) for exchange in stretch]


def _stretch(rng: random.Random, held_out: bool) -> list[Exchange]:
    kind = rng.random()
    if kind < 0.12:
        return [_reverse(rng, held_out)]
    if kind < 0.24:
        return [_verify(rng, held_out)]
    if kind < 0.29:
        return [_continent(rng, held_out)]
    if kind < 0.34:
        return [_about(rng, held_out)]
    if kind < 0.41:
        return [_no_country(rng, held_out, "ask")]
    stretch = [_capital(rng, held_out, "ask")]
    while len(stretch) < 4 and rng.random() < FOLLOW_SHARE:
        follow = _no_country if rng.random() < NO_COUNTRY_FOLLOW_SHARE else _capital
        stretch.append(follow(rng, held_out, "follow"))
    return stretch


def capital_question(rng: random.Random, held_out: bool = False) -> Exchange:
    """Returns one plain question for a capital, used by the evaluation."""
    return _capital(rng, held_out, "ask")


def _pick(rng: random.Random) -> Country:
    return rng.choice(well_known() if rng.random() < WELL_KNOWN_SHARE else countries())


def _template(rng: random.Random, key: str, held_out: bool) -> str:
    return expand(rng.choice(phrases()[f"held_out_{key}" if held_out else key]), rng)


def _words(country: Country, rng: random.Random) -> dict[str, str]:
    return {
        "country": country.spoken(rng),
        "name": country.name,
        "capital": country.capital,
        "continent": country.continent,
    }


def _exchange(template: str, reply_key: str, words: dict[str, str], check: str) -> Exchange:
    reply = fill(phrases()[reply_key], words).replace("D.C..", "D.C.")
    return Exchange(fill(template, words), reply, check)


def _capital(rng: random.Random, held_out: bool, key: str) -> Exchange:
    country = _pick(rng)
    return _exchange(_template(rng, key, held_out), "reply", _words(country, rng), country.capital)


def _reverse(rng: random.Random, held_out: bool) -> Exchange:
    country = _pick(rng)
    if country.capital == country.name:
        return _reverse(rng, held_out)
    template = _template(rng, "reverse", held_out)
    return _exchange(template, "reverse_reply", _words(country, rng), country.name)


def _verify(rng: random.Random, held_out: bool) -> Exchange:
    country = _pick(rng)
    is_right = rng.random() < 0.5
    guess = country.capital if is_right else _pick(rng).capital
    words = _words(country, rng) | {"guess": guess}
    reply_key = "verify_yes" if guess == country.capital else "verify_no"
    check = "yes" if guess == country.capital else f"no, the capital of {country.name} is {country.capital}"
    return _exchange(_template(rng, "verify", held_out), reply_key, words, check)


def _continent(rng: random.Random, held_out: bool) -> Exchange:
    country = _pick(rng)
    words = _words(country, rng) | {"guess": country.continent}
    return _exchange(_template(rng, "continent", held_out), "continent_reply", words, country.continent)


def _about(rng: random.Random, held_out: bool) -> Exchange:
    country = _pick(rng)
    return _exchange(_template(rng, "about", held_out), "about_reply", _words(country, rng), country.capital)


def _no_country(rng: random.Random, held_out: bool, key: str) -> Exchange:
    """Returns a question about the capital of a place that is not a country, real or made up."""
    regions = phrases()["held_out_regions" if held_out else "regions"]
    place = rng.choice(regions) if rng.random() < 0.3 else made_up_place(rng)
    words = {"country": place, "place": place}
    return _exchange(_template(rng, key, held_out), "unknown_reply", words, "don't know")
