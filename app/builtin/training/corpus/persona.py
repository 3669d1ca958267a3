"""System prompts, and how each of them changes the replies that the topics wrote."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.builtin.training.corpus.intents import data_table, expand
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.words import name, word

Restyle = Callable[[Exchange], str | None]


@dataclass(frozen=True, slots=True)
class Persona:
    """A system prompt, the same request as a user's message (`order`), and its effect on replies.

    `agreed` is the reply to the order. `restyle` returns None if an exchange cannot be answered in this
    style. `own` are exchanges that only this persona has. `user` is the user's name, if the prompt gives it.
    """

    prompt: str
    order: str
    agreed: str
    restyle: Restyle
    own: tuple[Exchange, ...] = ()
    user: str | None = None


def _renamed(exchange: Exchange) -> str | None:
    return None if "the built-in model" in exchange.reply else exchange.reply


def _data() -> dict[str, Any]:  # TOML: phrases, the pirate's words and the styles
    return data_table("persona.toml")


def _has_code(exchange: Exchange) -> bool:
    return "```" in exchange.reply


def _upper(exchange: Exchange) -> str | None:
    return None if _has_code(exchange) else exchange.reply.upper()


def _lower(exchange: Exchange) -> str | None:
    return None if _has_code(exchange) else exchange.reply.lower()


def _one_word(exchange: Exchange) -> str | None:
    """Returns the reply as one word or one name. A calculation with intermediate steps stays as it is."""
    for part, said in _SAID_IN_ONE_WORD.items():
        if part in exchange.reply:
            return said
    if (exchange.check or "").startswith("= ") and not _SMALL_SUM.match(exchange.reply):
        return exchange.reply
    if found := _FIRST_WORD.match(exchange.reply):
        return f"{found[1]}."
    answer = (exchange.check or "").strip("=. ")
    return f"{answer[:1].upper()}{answer[1:]}." if _NAME.fullmatch(answer) else None


def _first_sentence(exchange: Exchange) -> str | None:
    if _has_code(exchange) or "don't know" in exchange.reply:
        return exchange.reply
    return re.split(r"(?<=[.!?])\s", exchange.reply)[0]


_SAID_IN_ONE_WORD = {
    "I will remember": "Noted.", "Nice to meet": "Noted.", "Thank you for telling": "Noted.",
    "don't know": "Unknown.", "not told me": "Unknown.", "You are welcome": "Welcome.",
    "I am sorry": "Sorry.", "I am doing well": "Well.", "Of course": "Sure.",
}  # fmt: skip
_FIRST_WORD = re.compile(r"(Yes|No|Hello|Goodbye|Sure|Hi)\b")
_NAME = re.compile(r"[\w'-]+|[A-Z][\w'-]+(?: [A-Z][\w'-]+){1,2}")
_SMALL_SUM = re.compile(r"(?:\d|1[0-2]) [+*-] (?:\d|1[0-2]) ")  # known by heart, so one word is enough
_PLAIN_WORD = re.compile(r"(?<![/\w-])[A-Za-z]+(?![\w-])")


def _pirate(exchange: Exchange) -> str | None:
    if _has_code(exchange):
        return f"Arr, matey! {exchange.reply}"

    def swap(found: re.Match[str]) -> str:
        other = str(_data()["pirate"].get(found[0].lower(), found[0]))
        return other.capitalize() if found[0][0].isupper() else other

    return f"Arr, matey! {_PLAIN_WORD.sub(swap, exchange.reply)}"


def _surrounded(before: str = "", after: str = "") -> Restyle:
    def restyle(exchange: Exchange) -> str | None:
        return None if after and _has_code(exchange) else f"{before}{exchange.reply}{after}"

    return restyle


def _plain(exchange: Exchange) -> str | None:
    return exchange.reply


_STYLES: dict[str, Restyle] = {
    "upper": _upper,
    "lower": _lower,
    "one_word": _one_word,
    "short": _first_sentence,
    "pirate": _pirate,
    "robot": _surrounded("Beep! ", " Boop."),
}
_STYLE_WEIGHTS = (4, 1, 4, 1, 1, 1)  # capital letters and single words are the hardest to learn
_VERBS = ("Answer", "Reply", "Respond", "Write", "Use", "Be", "Talk", "Speak", "Give", "Keep", "Act", "Say")


def _phrase(rng: random.Random, key: str, held_out: bool = False) -> str:
    return expand(rng.choice(_data()[f"held_{key}" if held_out else key]), rng)


def normal_again(rng: random.Random) -> Exchange:
    """The user asks for normal answers again."""
    return Exchange(_phrase(rng, "normal"), "All right, I will answer normally again.")


def style(rng: random.Random, held_out: bool, key: str | None = None) -> Persona:
    """Returns a persona with one of the fixed styles of answering."""
    key = key or rng.choices(list(_STYLES), _STYLE_WEIGHTS)[0]
    entry = _data()["style"][key]
    prompt = expand(rng.choice(entry["held_prompts" if held_out else "prompts"]), rng)
    return Persona(prompt, _as_order(rng, prompt), entry["agreed"], _STYLES[key])


def _as_order(rng: random.Random, prompt: str) -> str:
    order = prompt.replace("You are a", "Be a").replace("You answer", "Answer").replace("You give", "Give")
    if not order.startswith(_VERBS):
        return order
    polite = rng.choice(("{}", "Please {}", "{} please", "Can you {}?", "From now on, {}", "{} from now on"))
    lowered = order if polite.startswith("{}") else order[:1].lower() + order[1:]
    return polite.format(lowered.rstrip(".") if polite != "{}" else lowered)


def named(rng: random.Random, held_out: bool) -> Persona:
    """Returns a persona that gives the assistant a name."""
    given = name(rng, held_out)
    reply = f"My name is {given}."
    own = tuple(Exchange(ask, reply, given) for ask in rng.sample(_data()["name_ask"], 3))
    prompt = _phrase(rng, "name", held_out).format(n=given)
    order = _phrase(rng, "name_order")
    return Persona(prompt, order.format(n=given), f"All right, my name is {given}.", _renamed, own)


def _with_word(rng: random.Random, held_out: bool) -> Persona:
    at_end = rng.random() < 0.6
    said = word(rng, held_out)
    said = said.capitalize() if rng.random() < 0.4 else said
    prompt = _phrase(rng, "end" if at_end else "start").format(w=said)
    opening = f"{said[0].upper()}{said[1:]}! "
    restyle = _surrounded(after=f" {said}") if at_end else _surrounded(before=opening)
    agreed = f"All right. {said}" if at_end else f"{opening}All right."
    return Persona(prompt, _as_order(rng, prompt), agreed, restyle)


def _knowing_the_user(rng: random.Random, held_out: bool) -> Persona:
    user = name(rng, held_out)
    prompt = _phrase(rng, "user").format(n=user)
    return Persona(prompt, f"My name is {user}.", f"Nice to meet you, {user}!", _plain, user=user)


def _neutral(rng: random.Random, held_out: bool) -> Persona:
    prompt = _phrase(rng, "plain", held_out)
    return Persona(prompt, "Be kind.", "I will be kind.", _plain)


def persona(rng: random.Random, held_out: bool = False) -> Persona:
    """Returns a random persona. Its prompt may stand among sentences that have no effect on replies."""
    makers = (_neutral, style, named, _with_word, _knowing_the_user)
    made = rng.choices(makers, (18, 54, 14, 8, 6))[0](rng, held_out)
    if held_out or rng.random() < 0.6:
        return made
    idle = rng.sample(_data()["plain"], rng.choice((1, 1, 2)))
    return replace(made, prompt=" ".join(rng.sample([made.prompt, *idle], len(idle) + 1)))
