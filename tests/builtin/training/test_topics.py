"""The topics: replies contain their check, and evaluation shares no question with training."""

import random
import re

import pytest

from app.builtin.training.corpus.intents import expand, intent_set
from app.builtin.training.corpus.topic import Exchange, Topic
from app.builtin.training.corpus.topics import capitals, code, commands, facts, smalltalk, unknown

TOPICS = [smalltalk.exchanges, capitals.exchanges, facts.exchanges, commands.exchanges, code.exchanges]
TOPICS.append(unknown.exchanges)
STRETCHES = 1500


def as_pattern(template: str) -> re.Pattern[str]:
    """A pattern for all expansions of the template, in any letter case and with any final punctuation."""
    marks = {"[": "(?:", "]": ")", "|": "|"}
    text = "".join(marks.get(letter, re.escape(letter)) for letter in template.rstrip(".?!"))
    return re.compile(f"(?:{text})[.?!]*", re.IGNORECASE)


def sample(topic: Topic, held_out: bool) -> list[Exchange]:
    rng = random.Random(7)
    return [exchange for _ in range(STRETCHES) for exchange in topic(rng, held_out)]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("held_out", [False, True])
def test_topics_reply_with_their_check(topic: Topic, held_out: bool) -> None:
    for exchange in sample(topic, held_out):
        assert exchange.check is None or exchange.check.lower() in exchange.reply.lower()


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_leave_no_template_marks_in_questions(topic: Topic) -> None:
    assert not [exchange.user for exchange in sample(topic, False) if set(exchange.user) & set("{}[]|")]


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_keep_held_out_questions_from_training(topic: Topic) -> None:
    trained = {exchange.user for exchange in sample(topic, False)}
    assert not trained & {exchange.user for exchange in sample(topic, True)}


@pytest.mark.parametrize("file_name", ["smalltalk.toml", "commands.toml", "facts.toml"])
def test_held_out_questions_are_not_expansions_of_trained_templates(file_name: str) -> None:
    rng = random.Random(8)
    for intent in intent_set(file_name).by_name.values():
        held_out = {expand(template, rng) for template in intent.held_out for _ in range(5)}
        patterns = [as_pattern(template) for template in intent.ask]
        found = [text for text in held_out if any(pattern.fullmatch(text) for pattern in patterns)]
        assert [text for text in found if text[0].isalnum()] == []


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_depend_on_their_generator_alone(topic: Topic) -> None:
    assert sample(topic, False) == sample(topic, False)


@pytest.mark.parametrize("file_name", ["smalltalk.toml", "commands.toml", "facts.toml"])
def test_intents_are_followed_by_intents_that_exist(file_name: str) -> None:
    intents = intent_set(file_name).by_name
    assert {name for intent in intents.values() for name in intent.follow} <= set(intents)


@pytest.mark.parametrize("name", list(code.functions()))
def test_taught_functions_pass_their_tests(name: str) -> None:
    snippet, namespace = code.functions()[name], dict[str, object]()
    exec(snippet.code, namespace)
    assert [test for test in snippet.tests if not eval(test, namespace)] == []


def test_every_country_has_its_own_name_and_a_capital() -> None:
    names = [country.name for country in capitals.countries()]
    assert len(set(names)) == len(names) == 197
    assert all(country.capital for country in capitals.countries())
