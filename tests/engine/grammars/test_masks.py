"""Masks are computed in a thread; one that hangs ends its replies, and not the engine."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from app.engine.grammars.masks import MaskedReply, MaskWorker


@dataclass
class Reply:
    """Its masks are ready once `release` is set."""

    release: threading.Event = field(default_factory=threading.Event)
    is_prepared: threading.Event = field(default_factory=threading.Event)
    prepared: list[Sequence[int]] = field(default_factory=list)
    failure: str | None = None

    def prepare(self, draft_ids: Sequence[int]) -> None:
        assert self.release.wait(60)
        self.prepared.append(draft_ids)
        self.is_prepared.set()

    def give_up(self, reason: str) -> None:
        self.failure = reason


def _is_a_reply(reply: Reply) -> MaskedReply:
    return reply  # checked by mypy


@pytest.fixture
def hanging() -> Iterator[Reply]:
    reply = Reply()
    yield reply
    reply.release.set()


def ready() -> Reply:
    reply = Reply()
    reply.release.set()
    return reply


def test_worker_prepares_every_reply_before_it_finishes() -> None:
    worker, replies = MaskWorker(), [ready(), ready()]
    for step in range(3):
        worker.start((reply, (step,)) for reply in replies)
        worker.finish()
    assert [reply.prepared for reply in replies] == [[(0,), (1,), (2,)]] * 2


def test_worker_without_replies_waits_for_nothing() -> None:
    worker = MaskWorker()
    worker.finish()
    worker.start(())
    worker.finish()


def test_worker_gives_up_a_reply_whose_mask_hangs_and_goes_on(hanging: Reply) -> None:
    worker = MaskWorker(limit_s=0.01)
    worker.start([(hanging, ())])
    worker.finish()
    assert hanging.failure is not None and "too long" in hanging.failure
    other = ready()
    worker.start([(other, ())])
    assert other.is_prepared.wait(60), "another thread has taken over"
