"""Two clients in one conversation of a real server, which answers without a model."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.cli.conversation.session import Session
from app.cli.errors import UsageError
from app.cli.net.client import ChatClient
from tests.cli.conftest import Seen, typed
from tests.forked_server import forked_server
from tests.server import NO_WORKERS, RunningServer

REPLY = "Hello there"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder: Path = tmp_path_factory.mktemp("server")
    settings = {"LLM_DATABASE_URL": f"sqlite:///{folder}/conversations.db", "LLM_MODEL_NAME": "none"}
    with forked_server(folder, command=("tests.stored_server",), **settings, **NO_WORKERS) as running:
        running.wait_until_ready()
        yield running


class Pair:
    """Two clients that have the same conversation open, and their screens."""

    def __init__(self, sessions: list[Session], screens: list[Seen]) -> None:
        self.one, self.two = sessions
        self.screens = screens

    @property
    def path(self) -> str:
        return f"/api/v1/chat/conversation/{self.one.transcript.conversation_id}"


async def pair(stack: AsyncExitStack, url: str) -> Pair:
    screens = [Seen(), Seen()]
    clients = [await stack.enter_async_context(ChatClient(url)) for _ in screens]
    both = Pair(
        [Session(client, seen.terminal()) for client, seen in zip(clients, screens, strict=True)], screens
    )
    await typed(both.one, "first")
    both.two.transcript.conversation_id = both.one.transcript.conversation_id
    await both.two.load(both.two.transcript)
    return both


def test_clients_that_take_turns_see_each_other_before_they_ask(server: RunningServer) -> None:
    async def go() -> None:
        async with AsyncExitStack() as stack:
            both = await pair(stack, server.url)
            for number in range(3):
                await typed(both.one, f"one {number}")
                await typed(both.two, f"two {number}")
            asked = [f"{name} {number}" for number in range(3) for name in ("one", "two")]
            texts = [message["content"] for message in server.get(both.path)["messages"]]
            assert texts[::2] == ["first", *asked]
            assert [message.content for message in both.two.transcript.messages] == texts
            assert both.screens[0].answers.count(f"two 1\n{REPLY}\n") == 1
            with pytest.raises(UsageError, match="Nothing was changed"):
                await typed(both.one, "/undo")
            await typed(both.one, "/undo")
            assert len(server.get(both.path)["messages"]) == len(texts) - 2

    asyncio.run(go())


def test_messages_at_the_same_moment_follow_each_other(server: RunningServer) -> None:
    async def go() -> None:
        async with AsyncExitStack() as stack:
            both = await pair(stack, server.url)
            await asyncio.gather(typed(both.one, "from one"), typed(both.two, "from two"))
            messages = server.get(f"{both.path}?tree=true")["messages"]
            assert [len(message["siblings"]) for message in messages] == [1] * 6

    asyncio.run(go())


def test_message_follows_a_system_message_that_the_client_does_not_show(server: RunningServer) -> None:
    async def go() -> None:
        async with AsyncExitStack() as stack:
            both = await pair(stack, server.url)
            item = {"type": "message", "role": "system", "content": "Be brief."}
            path = f"/v1/conversations/{both.one.transcript.conversation_id}/items"
            server.http.post(path, json={"items": [item]}).raise_for_status()
            await typed(both.one, "after it")
            await typed(both.one, "and again")
            messages = server.get(both.path)["messages"]
            assert [message["content"] for message in messages[2::2]] == ["Be brief.", REPLY, REPLY]
            assert [message["content"] for message in messages[3::2]] == ["after it", "and again"]

    asyncio.run(go())
