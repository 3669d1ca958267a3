"""A server that describes conversations wrongly cannot crash or confuse the terminal."""

import asyncio
import contextlib
import re
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from app.cli.chat import Chat
from app.cli.conversation.session import Session
from app.cli.input.interrupts import Interrupts
from app.cli.net.client import ChatClient
from app.cli.net.connection import Connection, ServerTarget
from app.cli.paths import sessions_folder
from app.cli.transcripts.autosave import Autosave
from app.models import schemas as wire
from tests.cli.conftest import ReadableScreen, Seen
from tests.cli.output.test_console import OWN
from tests.cli.stand_in.process import served
from tests.cli.stand_in.state import StandIn
from tests.cli.stand_in.tree import NOW
from tests.cli.test_chat import ScriptedPrompt
from tests.waiting import LIMIT_S

IDS = ("a", "b", "c", "\x1b[2J", "\x1b]0;title\x07", "../../new", "?tree=x#", "x" * 300, "", "e\u202e\n")
LINES = ["/sessions", "/load 1", "hello", "/retry", "/versions", "/version previous", "/branch", "/branch 1"]
LINES += ["/branch 2", "/undo", "/branch", "/fork", "/title T", "/history", "/continue", "/branch 3", "bye"]
ids = st.sampled_from(IDS)
described = st.lists(
    st.tuples(ids, st.none() | ids, st.sampled_from(["user", "assistant", "tool", "system"])), max_size=6
)


@dataclass(frozen=True)
class Hostile:
    messages: list[tuple[str, str | None, wire.Role]]
    head_id: str | None


class HostileTreeServer(StandIn):
    """Describes every conversation as the same wrong tree, and chooses wrong heads."""

    def __init__(self, hostile: Hostile) -> None:
        super().__init__()
        self.hostile = hostile

    def distorted(self, held: wire.ConversationResponse) -> wire.ConversationResponse:
        messages = [
            wire.ConversationMessage(
                id=message_id,
                parent_id=parent_id,
                role=role,
                content=f"\x1b[31m{message_id}",
                siblings=list(IDS) * (2000 if len(self.hostile.messages) < 10 else 1),
                position=10**9,
                timestamp=NOW,
            )
            for message_id, parent_id, role in self.hostile.messages
        ]
        return held.model_copy(update={"messages": messages, "head_id": self.hostile.head_id})


async def _chat(url: str, seen: Seen, plain: bool) -> None:
    async with ChatClient(url) as client:
        with contextlib.closing(Autosave(sessions_folder())) as autosave:
            session = Session(client, seen.terminal() if plain else seen.rich(), "", autosave)
            connection = Connection(client, ServerTarget({}, url=url))
            await Chat(session, connection, ScriptedPrompt(["first", "/new", *LINES]), Interrupts()).run()


@pytest.mark.parametrize("plain", [False, True])
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.generate],  # to shrink a failure would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(messages=described, head_id=st.none() | ids)
def test_wrong_tree_neither_crashes_nor_controls_the_terminal(
    plain: bool, messages: list[tuple[str, str | None, wire.Role]], head_id: str | None
) -> None:
    seen = Seen(err=ReadableScreen())
    with served(HostileTreeServer(Hostile(messages, head_id))) as url:
        asyncio.run(_chat(url, seen, plain))
    shown = seen.answers + seen.messages
    assert "bug in the client" not in shown
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", OWN.sub("", shown)), repr(shown)


def test_message_that_a_wrong_tree_never_lets_in_is_refused() -> None:
    seen, server = Seen(), HostileTreeServer(Hostile([("a", None, "user")], "c"))
    with served(server) as url:
        asyncio.run(asyncio.wait_for(_chat(url, seen, plain=True), LIMIT_S))
    assert "The head is not the expected one." in seen.messages


def test_huge_tree_is_shown_in_part() -> None:
    seen = Seen()
    messages: list[tuple[str, str | None, wire.Role]] = [("q", None, "user")]
    messages += [(f"a{number}", "q", "assistant") for number in range(3_000)]
    with served(HostileTreeServer(Hostile(messages, "a7"))) as url:
        asyncio.run(_chat(url, seen, plain=True))
    assert "3,000 versions in all." in seen.messages and len(seen.messages) < 100_000
