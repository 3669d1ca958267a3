"""Composed conversations are reproducible, have the requested length, and repeat facts correctly."""

import random

from app.builtin.training.corpus.composition import conversation
from app.builtin.training.corpus.noise import as_typed
from app.builtin.training.corpus.persona import named, style
from app.builtin.training.corpus.recall import FactMemory
from app.builtin.training.corpus.topic import Exchange, is_reserved
from app.builtin.training.corpus.words import made_up_word, name, word


def test_conversation_depends_on_its_generator_alone() -> None:
    assert conversation(random.Random(3), 12) == conversation(random.Random(3), 12)


def test_conversation_alternates_user_and_assistant_after_an_optional_system_prompt() -> None:
    for seed in range(200):
        talk = conversation(random.Random(seed), 6)
        roles = [message["role"] for message in talk.messages()]
        assert roles == ["system"] * (talk.system is not None) + ["user", "assistant"] * 6
        assert all(message["content"] for message in talk.messages())


def test_training_never_uses_reserved_names_and_words() -> None:
    rng = random.Random(5)
    for make in (name, word, made_up_word):
        assert not any(is_reserved(part) for _ in range(500) for part in make(rng, False).split())
        assert all(is_reserved(part) for _ in range(100) for part in make(rng, True).split())


def test_memory_recalls_a_told_fact() -> None:
    for seed in range(300):
        memory = FactMemory(random.Random(seed), held_out=seed % 2 == 0)
        told = memory.tell()
        assert told.check is not None
        assert told.check in memory.recall().reply
        assert told.check in memory.sum_up().reply


def test_memory_recalls_the_corrected_value() -> None:
    for seed in range(100):
        memory = FactMemory(random.Random(seed))
        memory.tell()
        corrected = memory.correct().check
        assert memory.recall().check == corrected


def test_memory_admits_an_untold_fact() -> None:
    memory = FactMemory(random.Random(1))
    memory.tell()
    assert "have not told me" in memory.ask_untold().reply
    assert "anything" in FactMemory(random.Random(1)).sum_up().reply


def test_noise_keeps_words_that_the_reply_copies() -> None:
    rng = random.Random(2)
    for _ in range(300):
        typed = as_typed(
            rng, "Good day, my name is Wilhelmina.", "Nice to meet you, Wilhelmina!", is_copied=True
        )
        assert "Wilhelmina" in typed


def test_styles_rewrite_replies() -> None:
    paris = Exchange("What is the capital of France?", "The capital of France is Paris.", "Paris")
    rng = random.Random(4)
    replies = {key: style(rng, False, key).restyle(paris) for key in ("upper", "one_word", "pirate")}
    assert replies == {
        "upper": "THE CAPITAL OF FRANCE IS PARIS.",
        "one_word": "Paris.",
        "pirate": "Arr, matey! The capital of France be Paris.",
    }


def test_named_persona_answers_with_its_name() -> None:
    given = named(random.Random(6), True)
    assert all(exchange.reply == f"My name is {exchange.check}." for exchange in given.own)
    assert all(str(exchange.check) in given.prompt for exchange in given.own)
