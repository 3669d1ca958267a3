"""Sums, differences and small products. Evaluation uses operand pairs that training never calculates."""

import random
from collections.abc import Callable

from app.builtin.training.corpus.intents import data_table
from app.builtin.training.corpus.topic import Exchange, is_reserved

_LIMIT = 101
_TABLE = 12


def _phrases(key: str, operator: str | None = None) -> list[str]:
    entry = data_table("arithmetic.toml")[key]
    return list(entry if operator is None else entry[operator])


def is_reserved_pair(a: int, b: int) -> bool:
    """Returns whether the pair is for evaluation, in either order."""
    return is_reserved(f"{min(a, b)}&{max(a, b)}")


def result(a: int, operator: str, b: int) -> int:
    """Returns the value of `a operator b`."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def _operands(rng: random.Random, held_out: bool, operator: str) -> tuple[int, int]:
    if operator == "*":
        return rng.randint(0, _TABLE), rng.randint(0, _TABLE)
    while True:
        limit = 20 if rng.random() < 0.15 and not held_out else _LIMIT
        a, b = rng.randrange(limit), rng.randrange(limit)
        if operator == "-" and a < b and rng.random() < 0.7:
            a, b = b, a
        if is_reserved_pair(a, b) == held_out:
            return a, b


def _steps(a: int, operator: str, b: int) -> list[str]:
    """Returns the intermediate steps between question and result, if a digit is carried or borrowed."""
    if operator == "+" and a % 10 + b % 10 >= 10 and max(a, b) >= 10:
        return [f"{a - a % 10 + b - b % 10} + {a % 10 + b % 10}"]
    if operator == "-" and a < b:
        return [f"-({step})" for step in (f"{b} - {a}", *_steps(b, "-", a))]
    if operator == "-" and a % 10 < b % 10 and b >= 10:
        return [f"{a - b + b % 10} - {b % 10}"]
    return []


def worked(a: int, operator: str, b: int) -> str:
    """Returns the calculation as the model writes it, for example 47 + 38 = 70 + 15 = 85."""
    return " = ".join([f"{a} {operator} {b}", *_steps(a, operator, b), str(result(a, operator, b))])


def _answer(user: str, a: int, operator: str, b: int) -> Exchange:
    return Exchange(user, f"{worked(a, operator, b)}.", f"= {result(a, operator, b)}.")


def calculation(rng: random.Random, held_out: bool, operator: str) -> Exchange:
    """Returns one question for the value of `a operator b`, with random operands."""
    a, b = _operands(rng, held_out, operator)
    if rng.random() < 0.15 and not held_out:
        return _answer(rng.choice(_phrases("orders", operator)).format(a=a, b=b), a, operator, b)
    form = rng.choice(_phrases("forms", operator))
    in_words = max(a, b) <= 20 and "{a} " in form and rng.random() < 0.3
    words = _phrases("number_words")
    shown = (words[a], words[b]) if in_words else (str(a), str(b))
    ask = rng.choice(_phrases("held_ask" if held_out else "ask"))
    text = ask.format(form.format(a=shown[0], b=shown[1]))
    return _answer(text[0].upper() + text[1:], a, operator, b)


def _chain(rng: random.Random, held_out: bool) -> list[Exchange]:
    exchanges = [calculation(rng, held_out, rng.choice("+-"))]
    total = int(exchanges[0].reply.split("= ")[-1].rstrip("."))
    for _ in range(rng.randint(1, 3)):
        operator, b = rng.choice("+-"), rng.randint(1, 20)
        if not 0 <= total < _LIMIT or is_reserved_pair(total, b):
            break
        exchanges.append(_answer(rng.choice(_phrases("then", operator)).format(b=b), total, operator, b))
        total = result(total, operator, b)
    return exchanges


def _story(rng: random.Random, held_out: bool) -> list[Exchange]:
    operator = rng.choice("+-")
    a, b = _operands(rng, held_out, operator)
    if operator == "-" and a < b:
        a, b = b, a
    thing = rng.choice(_phrases("things"))
    more = rng.choice(("get {b} more", "buy {b} more", "find {b} more"))
    fewer = rng.choice(("give away {b}", "lose {b}", "sell {b}"))
    change = (more if operator == "+" else fewer).format(b=b)
    user = f"I have {a} {thing} and {change}. How many do I have?"
    value = result(a, operator, b)
    return [Exchange(user, f"{worked(a, operator, b)}, so you have {value} {thing}.", f"= {value}")]


def _sum_of_three(rng: random.Random, held_out: bool) -> list[Exchange]:
    a, b, c = (rng.randint(1, 30) for _ in range(3))
    if is_reserved_pair(a, b) or is_reserved_pair(a + b, c):
        return _comparison(rng, held_out)
    user = rng.choice(_phrases("ask")).format(f"{a} + {b} + {c}")
    return [Exchange(user, f"{worked(a, '+', b)}, and {worked(a + b, '+', c)}.", f"= {a + b + c}.")]


def _is_it_bigger(rng: random.Random, held_out: bool) -> list[Exchange]:
    a, b = rng.sample(range(_LIMIT), 2)
    adjective = rng.choice(("bigger", "larger", "greater", "more"))
    verdict = f"Yes, {a} is bigger than {b}." if a > b else f"No, {b} is bigger than {a}."
    return [Exchange(f"Is {a} {adjective} than {b}?", verdict, verdict)]


def _comparison(rng: random.Random, held_out: bool) -> list[Exchange]:
    low, high = sorted(rng.sample(range(_LIMIT), 2))
    pair = rng.sample((low, high), 2)
    bigger = rng.random() < 0.6
    adjective = rng.choice(("bigger", "larger", "greater", "more") if bigger else ("smaller", "less"))
    user = rng.choice(("Which is {}, {} or {}?", "What is {}, {} or {}?")).format(adjective, *pair)
    answer = f"{high} is bigger than {low}." if bigger else f"{low} is smaller than {high}."
    return [Exchange(user, answer, answer)]


def _big(rng: random.Random) -> int:
    return rng.randint(_LIMIT, rng.choice((300, 1000, 9999)))


def _outside(rng: random.Random, held_out: bool) -> list[Exchange]:
    big, big2 = _big(rng), _big(rng)
    text = rng.choice(_phrases("outside")).format(
        big=big, big2=big2, a=rng.randint(2, 99), b=rng.randint(2, 9)
    )
    return [Exchange(text, str(data_table("arithmetic.toml")["outside_reply"]), "don't know")]


_Maker = Callable[[random.Random, bool], list[Exchange]]
_RARE: list[_Maker] = [
    _chain,
    _chain,
    _story,
    _comparison,
    _is_it_bigger,
    _sum_of_three,
    _outside,
    _outside,
    _outside,
    _outside,
]


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns a few calculations in a row."""
    if not held_out and rng.random() < 0.25:
        return rng.choice(_RARE)(rng, held_out)
    operators = rng.choices("+-*", (55, 30, 15), k=rng.choice((1, 1, 2, 3, 4)))
    return [calculation(rng, held_out, operator) for operator in operators]
