"""Prompts are prepared beside the step loop, in order of arrival."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from app.engine.core import EngineCore
from app.engine.ipc.messages import Failed, Finished, SamplingParams, Submit, Tokenize
from app.engine.tokenization.bounded_calls import CALL_LIMIT_S
from tests.engine.tiny import Collected, TinyModel, finish, greedy

TIMEOUT_S = 60


class HeldTokenizer(PreTrainedTokenizerFast):
    """Does not encode a text with the word `slow` before `release` is set."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.begun = threading.Event()
        self.release = threading.Event()

    def __call__(self, text: str | list[str], **options: Any) -> Any:  # as the method that it wraps
        if "slow" in text:
            self.begun.set()
            assert self.release.wait(TIMEOUT_S)
        return super().__call__(text, **options)


@dataclass
class Held:
    engine: EngineCore
    tokenizer: HeldTokenizer
    collected: Collected = field(default_factory=Collected)

    def submit_slow(self) -> None:
        """Returns when the thread is preparing the request."""
        self.engine.submit(greedy("slow", "slow", 4))
        assert self.tokenizer.begun.wait(TIMEOUT_S)

    def step_until(self, is_enough: Callable[[], bool]) -> None:
        for _ in range(3000):  # each waits some milliseconds if there is nothing to compute
            if is_enough():
                return
            self.collected.take(self.engine.step())
        raise AssertionError("that does not happen")


@pytest.fixture
def held(llama: TinyModel) -> Iterator[Held]:
    with held_engine(llama, CALL_LIMIT_S) as held:
        yield held


@contextmanager
def held_engine(llama: TinyModel, tokenizer_s: float) -> Iterator[Held]:
    tokenizer = HeldTokenizer(tokenizer_object=llama.tokenizer.backend_tokenizer)
    with ThreadPoolExecutor(1) as executor:
        engine = replace(llama, tokenizer=tokenizer).engine(
            admission_executor=executor, tokenizer_s=tokenizer_s
        )
        yield Held(engine, tokenizer)
        tokenizer.release.set()


def test_admission_lets_other_requests_go_on(held: Held, llama: TinyModel) -> None:
    held.engine.submit(greedy("running", "the cat", 24))
    held.step_until(lambda: "running" in held.collected.accepted)
    held.submit_slow()
    held.step_until(lambda: "running" in held.collected.ends)
    assert held.collected.texts["running"] == llama.generate("the cat", 24)
    assert "slow" not in held.collected.accepted
    held.tokenizer.release.set()
    finish(held.engine, held.collected)
    assert held.collected.texts["slow"] == llama.generate("slow", 4)


def test_admission_keeps_the_order_of_arrival(held: Held) -> None:
    held.submit_slow()
    held.engine.submit(greedy("invalid", "x" * 500))
    held.engine.submit(greedy("second", "the cat", 4))
    assert held.engine.waiting == 3
    assert not held.engine.is_idle
    assert held.engine.step() == []
    held.tokenizer.release.set()
    finish(held.engine, held.collected)
    assert list(held.collected.accepted) == ["slow", "second"]
    assert isinstance(held.collected.ends["invalid"], Failed)


@pytest.mark.parametrize("cancelled", ["slow", "second"])
def test_admission_cancels_what_is_being_prepared(held: Held, cancelled: str) -> None:
    held.submit_slow()
    held.engine.submit(greedy("second", "the cat", 4))
    held.engine.cancel(cancelled)
    held.collected.take(held.engine.step())
    end = held.collected.ends[cancelled]
    assert isinstance(end, Finished)
    assert end.finish_reason == "cancelled"
    held.tokenizer.release.set()
    finish(held.engine, held.collected)
    assert set(held.collected.ends) == {"slow", "second"}
    assert list(held.collected.accepted) == [{"slow": "second", "second": "slow"}[cancelled]]


def test_admission_ends_all_of_them_at_shutdown(held: Held) -> None:
    held.submit_slow()
    held.engine.submit(greedy("second", "the cat", 4))
    held.engine.cancel_all()
    held.collected.take(held.engine.step())
    assert set(held.collected.ends) == {"slow", "second"}
    assert held.engine.is_idle


def test_admission_refuses_the_id_of_a_request_that_is_being_prepared(held: Held) -> None:
    held.submit_slow()
    held.engine.submit(Submit("slow", SamplingParams(), prompt="another"))
    assert [type(message) for message in held.engine.step()] == [Failed]
    held.tokenizer.release.set()
    finish(held.engine, Collected())


@pytest.mark.parametrize("message", [greedy("slow", "slow", 4), Tokenize("slow", "slow")])
def test_text_that_keeps_the_tokenizer_busy_fails_and_others_go_on(
    llama: TinyModel, message: Submit | Tokenize
) -> None:
    with held_engine(llama, tokenizer_s=0.01) as held:
        engine, collected = held.engine, held.collected
        engine.submit(greedy("running", "the cat", 60))
        held.step_until(lambda: "running" in collected.accepted)
        if isinstance(message, Submit):
            engine.submit(message)
        else:
            engine.ask(message)
        engine.submit(greedy("second", "the cat", 4))
        held.step_until(lambda: "second" in collected.accepted)
        failed = collected.ends["slow"]
        assert isinstance(failed, Failed) and "tokenizer takes too long" in failed.message
        assert not engine.must_be_replaced  # before the open requests have ended
        finish(engine, collected)
        assert collected.texts["running"] == llama.generate("the cat", 60)
        assert collected.texts["second"] == llama.generate("the cat", 4)
        assert engine.must_be_replaced


def test_worker_is_replaced_at_once_if_several_texts_keep_its_tokenizer_busy(llama: TinyModel) -> None:
    with held_engine(llama, tokenizer_s=0.01) as held:
        held.engine.submit(greedy("running", "the cat", 4))
        for number in range(3):
            held.engine.submit(greedy(f"slow {number}", "slow", 4))
        held.engine.submit(greedy("waiting", "the cat", 4))
        held.step_until(lambda: "slow 2" in held.collected.ends)
        held.engine.submit(greedy("open", "the cat", 4))
        assert held.engine.must_be_replaced
