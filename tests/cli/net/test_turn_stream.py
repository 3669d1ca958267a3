"""A turn whose connection breaks is picked up where it stopped."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from app.cli.errors import Refused, StreamBroken, Unreachable
from app.cli.net.api_link import SILENCE_S
from app.cli.net.client import ChatClient
from app.cli.net.event_stream import ServerEvents, StreamPosition
from app.cli.net.turn_stream import ConnectionNotice, unbroken
from app.models.schemas import ChatRequest, ChatResponse, DeltaEvent
from tests.cli.stand_in.process import served
from tests.cli.stand_in.state import StandIn

TEXT = "say one two three four five six"


def _read(
    url: str, message: str = TEXT, background: bool = True, silence_s: float = SILENCE_S
) -> tuple[str, list[str], bool]:
    """The text of the answer, the notices, and whether its last event came."""

    async def read() -> tuple[str, list[str], bool]:
        async with ChatClient(url, silence_s=silence_s) as client:

            def begin(position: StreamPosition) -> ServerEvents:
                own = {"background": True} if background else {}
                return client.chat(ChatRequest(message=message, stream=True, **own), position)

            async with aclosing(unbroken(client, begin, delays_s=(0, 0, 0))) as events:
                found = [event async for event in events]
        text = "".join(event.text for event in found if isinstance(event, DeltaEvent))
        notices = [event.text for event in found if isinstance(event, ConnectionNotice)]
        return text, notices, isinstance(found[-1], ChatResponse)

    return asyncio.run(read())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 6), max_size=3), gaps=st.integers(0, 2))
def test_answer_is_exact_wherever_the_connection_breaks(cuts: list[int], gaps: int) -> None:
    standin = StandIn()
    standin.cuts = [2 + sum(cuts[:1]), *cuts[1:], *[0] * gaps]
    with served(standin) as url:
        text, notices, is_done = _read(url)
    assert (text, is_done) == ("one two three four five six", True)
    assert notices and (notices[-1] == "" or gaps)


def test_answer_goes_on_after_a_connection_that_fell_silent(url: str, standin: StandIn) -> None:
    standin.cuts, standin.falls_silent = [3, 2], True
    text, notices, is_done = _read(url, silence_s=0.2)
    assert (text, is_done) == ("one two three four five six", True)
    assert notices[0] == "The connection was lost. Connecting again (1)..."
    assert [kind for kind, _ in standin.requests][:3] == ["chat", "events", "events"]


def test_attempts_to_connect_again_are_bounded(url: str, standin: StandIn) -> None:
    standin.cuts = [3, *[0] * 20]
    with pytest.raises(StreamBroken, match="cannot be picked up again"):
        _read(url)
    assert [kind for kind, _ in standin.requests] == ["chat", "events", "events", "events"]


def test_attempts_are_counted_anew_after_an_event(url: str, standin: StandIn) -> None:
    standin.cuts = [3, 0, 0, 1, 0, 0, 1, 0, 0]
    assert _read(url)[0] == "one two three four five six"


def test_turn_that_the_server_does_not_keep_is_broken(url: str, standin: StandIn) -> None:
    with pytest.raises(StreamBroken, match="No turn with this id"):
        _read(url, "drop now")


def test_turn_without_ids_is_broken_at_once(url: str, standin: StandIn) -> None:
    standin.is_old = True
    with pytest.raises(StreamBroken, match="the stream ended early"):
        _read(url, "drop now", background=False)
    assert [kind for kind, _ in standin.requests] == ["chat"]


def test_error_of_the_turn_is_raised_after_it_was_resumed(url: str, standin: StandIn) -> None:
    standin.cuts = [3]
    with pytest.raises(Refused, match="process ended"):
        _read(url, "fail now")


def test_server_that_never_answered_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        _read("http://127.0.0.1:9")
