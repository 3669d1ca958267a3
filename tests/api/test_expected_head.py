"""A request about a conversation whose head is not the expected one is refused, and changes nothing."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.owned import OwnedServer, owned_server, run

Body = dict[str, Any]  # Any: JSON


class Conversation:
    """A conversation with two turns, over HTTP."""

    def __init__(self, client: httpx.AsyncClient, messages: list[Body], conversation_id: str) -> None:
        self.client = client
        self.id = conversation_id
        self.path = f"/chat/conversation/{conversation_id}"
        self.messages = [message["id"] for message in messages]

    async def tree(self) -> Body:
        held: Body = (await self.client.get(f"{self.path}?tree=true")).json()
        return held

    async def send(self, **fields: object) -> httpx.Response:
        return await self.client.post("/chat", json={"conversation_id": self.id, "message": "hi", **fields})

    def changes(self) -> list[tuple[str, Body]]:
        """A request of each kind that changes the current branch."""
        asked, answer = self.messages[2:]
        return [
            (f"{self.path}/regenerate", {}),
            (f"{self.path}/regenerate", {"message_id": answer, "stream": True, "background": True}),
            (f"{self.path}/continue", {}),
            (f"{self.path}/edit", {"message_id": asked, "message": "hello"}),
            (f"{self.path}/select", {"message_id": answer}),
            ("/chat", {"conversation_id": self.id, "message": "hi", "parent_id": self.messages[1]}),
            (f"{self.path}/undo", {}),
        ]


async def conversation(client: httpx.AsyncClient) -> Conversation:
    first = (await client.post("/chat", json={"message": "hi"})).json()
    await client.post("/chat", json={"conversation_id": first["conversation_id"], "message": "again"})
    held = (await client.get(f"/chat/conversation/{first['conversation_id']}")).json()
    return Conversation(client, held["messages"], first["conversation_id"])


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path}/conversations.db"


def test_a_change_that_expects_another_head_is_refused_and_names_the_present_one() -> None:
    async def test(server: OwnedServer) -> None:
        held = await conversation(server.clients["alice"])
        before = await held.tree()
        for path, body in held.changes():
            for expected_id in (held.messages[1], None, "msg_unknown"):
                refused = await held.client.post(path, json={**body, "expected_head_id": expected_id})
                error = refused.json()["error"]
                assert (refused.status_code, error["code"]) == (409, "head_changed")
                assert error["head_id"] == before["head_id"] == held.messages[-1]
        assert await held.tree() == before

    run(test)


def test_a_change_that_expects_the_present_head_is_made() -> None:
    async def test(server: OwnedServer) -> None:
        held = await conversation(server.clients["alice"])
        for path, body in held.changes():
            head_id = (await held.tree())["head_id"]
            done = await held.client.post(path, json={**body, "expected_head_id": head_id})
            assert done.status_code == 200, done.text
        assert len((await held.tree())["messages"]) == 11  # three replies and two turns more

    run(test)


def test_null_expects_an_empty_branch() -> None:
    async def test(server: OwnedServer) -> None:
        held = await conversation(server.clients["alice"])
        await held.client.post(f"{held.path}/undo", json={"turns": 2})
        refused = await held.send(expected_head_id=held.messages[-1])
        assert refused.json()["error"].keys() == {"code", "message", "hint"}  # there is no head to name
        assert (await held.send(expected_head_id=None)).status_code == 200
        assert (await held.send(expected_head_id=None)).status_code == 409

    run(test)


def test_a_message_that_begins_a_conversation_can_expect_no_head() -> None:
    async def test(server: OwnedServer) -> None:
        body = {"message": "hi", "expected_head_id": "msg_1"}
        refused = await server.clients["alice"].post("/chat", json=body)
        assert refused.status_code == 422
        assert "expected_head_id needs conversation_id" in refused.json()["error"]["message"]

    run(test)


def test_a_refused_message_frees_its_idempotency_key() -> None:
    async def test(server: OwnedServer) -> None:
        held = await conversation(server.clients["alice"])
        held.client.headers["Idempotency-Key"] = "once"
        assert (await held.send(expected_head_id="msg_unknown")).status_code == 409
        assert (await held.send(expected_head_id=held.messages[-1])).status_code == 200

    run(test)


def test_of_messages_that_expect_one_head_two_servers_answer_one(database_url: str) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(owned_server(database_url=database_url)) for _ in "12"]
            clients = [server.clients["alice"] for server in servers]
            held = await conversation(clients[0])
            body = {"conversation_id": held.id, "message": "hi", "expected_head_id": held.messages[-1]}
            replies = await asyncio.gather(*(one.post("/chat", json=body) for one in clients * 6))
            refused = [reply.json()["error"]["code"] for reply in replies if reply.status_code != 200]
            assert len(refused) == len(replies) - 1
            assert set(refused) <= {"conversation_busy", "head_changed"}
            late = await clients[1].post("/chat", json=body)
            assert late.json()["error"]["code"] == "head_changed"
            assert len((await held.tree())["messages"]) == 6

    asyncio.run(test())
