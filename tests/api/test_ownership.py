"""What belongs to one key does not exist for another."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.owned import OWNERS, OwnedServer, answer, ids_in, run

NO_CONVERSATION, NO_MESSAGE = f"conv_{'0' * 32}", f"msg_{'0' * 32}"
CONVERSATION = "/chat/conversation/{conversation_id}"
Body = dict[str, Any]  # a JSON object
MOST = 12  # conversations of each owner during the random steps

RESPONSE, OPENAI = "/v1/responses/{response_id}", "/v1/conversations/{conversation_id}"
OPENAI_BODIES: dict[tuple[str, str], list[Body | None]] = {
    ("GET", RESPONSE): [None],
    ("DELETE", RESPONSE): [None],
    ("POST", f"{RESPONSE}/cancel"): [None],
    ("GET", f"{RESPONSE}/input_items"): [None],
    ("GET", OPENAI): [None],
    ("POST", OPENAI): [{"metadata": {"mine": "yes"}}],
    ("DELETE", OPENAI): [None],
    ("GET", f"{OPENAI}/items"): [None],
    ("POST", f"{OPENAI}/items"): [{"items": [{"role": "user", "content": "hi"}]}],
    ("GET", f"{OPENAI}/items/{{item_id}}"): [None],
    ("DELETE", f"{OPENAI}/items/{{item_id}}"): [None],
}

# The bodies with which a route is asked, by its method and path. The ids stand for themselves.
BODIES: dict[tuple[str, str], list[Body | None]] = {
    ("GET", CONVERSATION): [None],
    ("DELETE", CONVERSATION): [None],
    ("PATCH", CONVERSATION): [{"title": "Mine"}],
    ("POST", f"{CONVERSATION}/undo"): [None, {"turns": 1}],
    ("POST", f"{CONVERSATION}/select"): [{"message_id": "MESSAGE"}],
    ("POST", f"{CONVERSATION}/fork"): [None, {"message_id": "MESSAGE"}],
    ("POST", f"{CONVERSATION}/regenerate"): [None, {"message_id": "MESSAGE"}, {"stream": True}],
    ("POST", f"{CONVERSATION}/continue"): [None, {"stream": True}],
    ("POST", f"{CONVERSATION}/edit"): [
        {"message_id": "MESSAGE", "message": "hi"},
        {"message_id": "MESSAGE", "message": "hi", "stream": True},
    ],
    ("GET", "/chat/turns/{message_id}/events"): [None],
    ("DELETE", "/chat/turns/{message_id}"): [None],
    **OPENAI_BODIES,
    ("POST", "/chat"): [
        {"conversation_id": "CONVERSATION", "message": "hi"},
        {"conversation_id": "CONVERSATION", "message": "hi", "parent_id": "MESSAGE"},
        {"conversation_id": "CONVERSATION", "message": "hi", "stream": True},
    ],
}


@pytest.fixture(params=["memory", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "memory" else f"sqlite:///{tmp_path}/conversations.db"


async def ask(
    client: httpx.AsyncClient,
    route: tuple[str, str],
    body: Body | None,
    conversation_id: str,
    message_id: str,
) -> httpx.Response:
    names = {"CONVERSATION": conversation_id, "MESSAGE": message_id}
    filled = None if body is None else {name: _filled(value, names) for name, value in body.items()}
    path = route[1].format(
        conversation_id=conversation_id,
        message_id=message_id,
        item_id=message_id,
        response_id=f"resp_{conversation_id[5:]}{message_id[4:]}",
    )
    if path.startswith("/v1"):
        path = str(client.base_url.copy_with(path=path))
    return await client.request(route[0], path, json=filled)


def _filled(value: object, names: dict[str, str]) -> object:
    return names.get(value, value) if isinstance(value, str) else value


async def start(client: httpx.AsyncClient, message: str = "hello") -> tuple[str, str, str]:
    """The ids of a new conversation, of its question and of its reply."""
    reply = (await client.post("/chat", json={"message": message})).raise_for_status().json()
    path = f"/chat/conversation/{reply['conversation_id']}"
    question, _ = (await client.get(path)).raise_for_status().json()["messages"]
    return reply["conversation_id"], question["id"], reply["message_id"]


async def check_that_nothing_is_there(server: OwnedServer, conversation_id: str, *message_ids: str) -> None:
    """Asserts that bob gets the same bytes for these ids, which are alice's, as for unknown ones."""
    for route, bodies in BODIES.items():
        for body in bodies:
            wanted = await ask(server.clients["bob"], route, body, NO_CONVERSATION, NO_MESSAGE)
            assert wanted.status_code == 404, route
            for message_id in message_ids:
                given = await ask(server.clients["bob"], route, body, conversation_id, message_id)
                assert answer(given) == answer(wanted), route


def test_every_route_with_an_id_is_asked_below() -> None:
    async def test(server: OwnedServer) -> None:
        routes = {(method, path) for path, methods in server.routes.items() for method in methods}
        assert {route for route in routes if "_id}" in route[1]} == BODIES.keys() - {("POST", "/chat")}

    run(test)


def test_conversation_of_another_key_does_not_exist_in_any_route(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        conversation_id, question_id, reply_id = await start(server.clients["alice"])
        before = answer(await server.clients["alice"].get(f"/chat/conversation/{conversation_id}?tree=true"))
        await check_that_nothing_is_there(server, conversation_id, question_id, reply_id, NO_MESSAGE)
        after = await server.clients["alice"].get(f"/chat/conversation/{conversation_id}?tree=true")
        assert answer(after) == before

    run(test, database_url)


def test_conversation_of_another_key_does_not_exist_during_its_turn_either(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        conversation_id, question_id, _ = await start(server.clients["alice"])
        server.backend.may_go_on.clear()
        server.backend.is_waiting.clear()
        body = {"message": "more", "conversation_id": conversation_id}
        turn = asyncio.create_task(server.clients["alice"].post("/chat", json=body))
        await asyncio.wait_for(server.backend.is_waiting.wait(), 30)
        await check_that_nothing_is_there(server, conversation_id, question_id)
        busy = await server.clients["alice"].post(f"/chat/conversation/{conversation_id}/undo")
        assert busy.status_code == 409
        server.backend.may_go_on.set()
        assert (await turn).status_code == 200

    run(test, database_url)


def test_idempotency_key_of_another_owner_begins_a_turn_of_its_own(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        headers = {"Idempotency-Key": "same"}
        ids = set()
        for owner in OWNERS * 2:
            reply = await server.clients[owner].post("/chat", json={"message": "hello"}, headers=headers)
            ids.add((owner, reply.raise_for_status().json()["message_id"]))
        assert len(ids) == 2
        changed = await server.clients["bob"].post("/chat", json={"message": "bye"}, headers=headers)
        assert changed.status_code == 409

    run(test, database_url)


def test_deleted_conversation_is_as_one_that_never_existed_for_both_keys(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        conversation_id, question_id, _ = await start(server.clients["bob"])
        (await server.clients["bob"].delete(f"/chat/conversation/{conversation_id}")).raise_for_status()
        await check_that_nothing_is_there(server, conversation_id, question_id)

    run(test, database_url)


def test_deletion_of_all_conversations_is_that_of_ones_own(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        alices = [await start(server.clients["alice"], "hello Marmalade") for _ in range(3)]
        conversation_id, _, _ = await start(server.clients["bob"])
        before = answer(await server.clients["bob"].get(f"/chat/conversation/{conversation_id}?tree=true"))
        misspelt = await server.clients["alice"].delete("/chat/conversations?query=Marmalade")
        assert misspelt.status_code in (400, 422)
        deleted = await server.clients["alice"].delete("/chat/conversations")
        assert deleted.json() == {"deleted": 3, "kept": 0}
        assert (await server.clients["alice"].get("/chat/conversations")).json()["total"] == 0
        searched = await server.clients["alice"].get("/chat/conversations?query=Marmalade")
        assert searched.json()["total"] == 0
        for gone, question_id, reply_id in alices:
            wanted = answer(await server.clients["alice"].get(f"/chat/conversation/{NO_CONVERSATION}"))
            assert answer(await server.clients["alice"].get(f"/chat/conversation/{gone}")) == wanted
            await check_that_nothing_is_there(server, gone, question_id, reply_id)
        after = await server.clients["bob"].get(f"/chat/conversation/{conversation_id}?tree=true")
        assert answer(after) == before

    run(test, database_url)


def test_message_of_another_key_does_not_exist_in_a_conversation_of_ones_own(
    database_url: str | None,
) -> None:
    async def test(server: OwnedServer) -> None:
        _, *message_ids = await start(server.clients["alice"])
        own_id, _, _ = await start(server.clients["bob"])
        for route, bodies in BODIES.items():
            for body in bodies:
                if body is None or "MESSAGE" not in body.values():
                    continue
                wanted = await ask(server.clients["bob"], route, body, own_id, NO_MESSAGE)
                assert wanted.status_code == 404, route
                for message_id in message_ids:
                    given = await ask(server.clients["bob"], route, body, own_id, message_id)
                    assert answer(given) == answer(wanted), route

    run(test, database_url)


@pytest.mark.parametrize("parameters", ["", "?query=hello", "?query=Marmalade", "?limit=1", "?offset=1"])
def test_list_search_and_count_do_not_change_with_the_conversations_of_another_key(
    parameters: str, database_url: str | None
) -> None:
    async def test(server: OwnedServer) -> None:
        for _ in range(3):
            await start(server.clients["bob"])
        before = answer(await server.clients["bob"].get(f"/chat/conversations{parameters}"))
        for _ in range(3):
            await start(server.clients["alice"], "hello Marmalade")
        assert answer(await server.clients["bob"].get(f"/chat/conversations{parameters}")) == before

    run(test, database_url)


def test_cursor_of_another_key_shows_no_conversation_of_it(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        for owner in OWNERS * 3:
            await start(server.clients[owner])
        cursor = (await server.clients["alice"].get("/chat/conversations?limit=1")).json()["next_cursor"]
        alices = ids_in((await server.clients["alice"].get("/chat/conversations")).content)
        page = await server.clients["bob"].get("/chat/conversations", params={"cursor": cursor})
        assert page.status_code in (200, 400) and not ids_in(page.content) & alices

    run(test, database_url)


@dataclass
class RandomSteps:
    """Steps of two owners, each with ids of both and with ids of conversations that are gone."""

    server: OwnedServer
    draw: random.Random
    conversations: dict[str, dict[str, set[str]]] = field(
        default_factory=lambda: {each: {} for each in OWNERS}
    )
    ids: dict[str, set[str]] = field(default_factory=lambda: {each: set() for each in OWNERS})
    gone: list[str] = field(default_factory=lambda: [NO_CONVERSATION])
    statuses: Counter[int] = field(default_factory=Counter)
    unknown: dict[str, tuple[object, ...]] = field(default_factory=dict)  # the answer for an unknown id

    async def step(self) -> None:
        owner = self.draw.choice(OWNERS)
        own = self.conversations[owner]
        match self.draw.randrange(6):
            case 0 if len(own) < MOST:
                await self._start(owner)
            case 1:
                await self._list(owner)
            case _:
                await self._ask(owner)

    async def _start(self, owner: str) -> None:
        path, body = self.draw.choice(
            [("/chat", {"message": f"{owner} speaks"}), ("/chat/new", {"title": f"{owner} writes"})]
        )
        reply = self._seen(owner, await self.server.clients[owner].post(path, json=body))
        await self._learn(owner, reply.json()["conversation_id"])

    async def _list(self, owner: str) -> None:
        query = self.draw.choice([None, *OWNERS])
        parameters = {"limit": 200} | ({} if query is None else {"query": query})
        reply = self._seen(
            owner, await self.server.clients[owner].get("/chat/conversations", params=parameters)
        )
        listed = {each["conversation_id"] for each in reply.json()["conversations"]}
        assert reply.json()["total"] == len(listed)
        if query is None:
            assert listed == self.conversations[owner].keys()
        else:
            assert listed <= (self.conversations[owner].keys() if query == owner else set())

    async def _ask(self, owner: str) -> None:
        """Asks for a conversation of either owner, or one that is gone, with a message of either."""
        conversation_id = self.draw.choice(
            [*self.conversations["alice"], *self.conversations["bob"], *self.gone]
        )
        known = [*self.conversations[owner].get(conversation_id, ())]
        message_id = self.draw.choice(
            [*known * 3, *sorted(self.ids["alice"] | self.ids["bob"])[:20], NO_MESSAGE]
        )
        routes = BODIES.keys() - OPENAI_BODIES.keys()
        route = self.draw.choice(
            [route for route in BODIES if route in routes for _ in range(1 if route[0] == "DELETE" else 4)]
        )
        body = self.draw.choice(BODIES[route])
        if body is not None and "message" in body:
            body = body | {"message": f"{owner} goes on"}
        reply = await ask(self.server.clients[owner], route, body, conversation_id, message_id)
        self._seen(owner, reply)
        if "/turns/" in route[1]:
            assert reply.status_code == 404 or message_id in self.ids[owner]
            if reply.status_code == 404:
                assert self.unknown.setdefault("turn", answer(reply)) == answer(reply)
        elif conversation_id not in self.conversations[owner]:
            assert reply.status_code == 404
            assert self.unknown.setdefault("conversation", answer(reply)) == answer(reply)
        elif reply.status_code == 404:
            assert body is not None and "MESSAGE" in body.values() and message_id not in known
            assert self.unknown.setdefault("message", answer(reply)) == answer(reply)
        elif route[0] == "DELETE":
            del self.conversations[owner][conversation_id]
            self.gone = [*self.gone[-5:], conversation_id]
        else:
            await self._learn(owner, conversation_id)
            if route[1].endswith("/fork"):
                await self._learn(owner, reply.json()["conversation_id"])

    async def _learn(self, owner: str, conversation_id: str) -> None:
        """Reads a conversation of the owner, and so all ids of its messages."""
        path = f"/chat/conversation/{conversation_id}?tree=true"
        ids = ids_in(self._seen(owner, await self.server.clients[owner].get(path)).content)
        self.conversations[owner][conversation_id] = ids - {conversation_id}
        self.ids[owner] |= ids

    def _seen(self, owner: str, reply: httpx.Response) -> httpx.Response:
        """Checks that a reply, and the requests to the model that it took, are of one owner alone."""
        (other,) = set(OWNERS) - {owner}
        assert not ids_in(reply.content) & self.ids[other]
        assert other.encode() not in reply.content
        assert other not in repr(self.server.backend.requests)
        assert {request.scope for request in self.server.backend.requests} <= {owner}
        self.server.backend.requests.clear()
        self.statuses[reply.status_code] += 1
        return reply


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_steps_of_two_keys_never_meet(count: int, database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        steps = RandomSteps(server, random.Random(count))
        for _ in range(count):
            await steps.step()
        assert min(steps.statuses[status] for status in (200, 400, 404)) > count / 100

    run(test, database_url)
