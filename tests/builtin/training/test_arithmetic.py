"""Calculations are right, and each operand pair is used in either training or evaluation, never in both."""

import random
import re

import pytest

from app.builtin.training.corpus.topic import is_reserved
from app.builtin.training.corpus.topics import arithmetic, spelling
from app.builtin.training.corpus.words import joined, written


@pytest.mark.parametrize("held_out", [False, True])
def test_calculations_are_right(held_out: bool) -> None:
    rng = random.Random(1)
    for exchange in (exchange for _ in range(800) for exchange in arithmetic.exchanges(rng, held_out)):
        calculated = exchange.reply.split(",")[0].rstrip(".").split(" = ")
        if len(calculated) > 1:
            assert len({eval(step) for step in calculated}) == 1


@pytest.mark.parametrize("operator", ["+", "-"])
@pytest.mark.parametrize("held_out", [False, True])
def test_operand_pairs_are_trained_or_evaluated(operator: str, held_out: bool) -> None:
    rng = random.Random(2)
    for _ in range(500):
        a, _, b, *_ = arithmetic.calculation(rng, held_out, operator).reply.split()
        assert arithmetic.is_reserved_pair(int(a), int(b)) == held_out


def test_chains_and_stories_use_no_evaluated_pair() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        for exchange in arithmetic.exchanges(rng):
            if found := re.match(r"(\d+) [+-] (\d+) =", exchange.reply):
                assert not arithmetic.is_reserved_pair(int(found[1]), int(found[2]))


def test_spelling_spells() -> None:
    rng = random.Random(4)
    for exchange in (exchange for _ in range(300) for exchange in spelling.exchanges(rng, True)):
        if found := re.match(r"(\w+) is spelled ([\w-]+)[.]", exchange.reply):
            assert found[2] == "-".join(found[1])
        assert str(exchange.check) in exchange.reply


def test_spelling_trains_on_no_reserved_word() -> None:
    rng = random.Random(6)
    for make in (written, joined):
        assert not any(is_reserved(make(rng, False)) for _ in range(500))
