"""A client may choose the id of the conversation that its request begins, with the header X-Session-Id."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.owned import OwnedServer, ids_in, run

UUID = "0B0F6A0C-9a0d-4c5e-8f5b-6f8f2f0a1c3d"
OF_UUID = "conv_0b0f6a0c9a0d4c5e8f5b6f8f2f0a1c3d"
CHOSEN = f"conv_{'5e' * 16}"
ROOT = "http://localhost"
BEGINNINGS: list[tuple[str, dict[str, Any]]] = [
    (f"{ROOT}/api/v1/chat", {"message": "hi"}),
    (f"{ROOT}/api/v1/chat", {"message": "hi", "stream": True}),
    (f"{ROOT}/api/v1/chat/new", {"title": "Chosen"}),
    (f"{ROOT}/v1/responses", {"input": "hi", "truncation": "auto"}),
    (f"{ROOT}/v1/responses", {"input": "hi", "truncation": "auto", "stream": True}),
    (f"{ROOT}/v1/conversations", {"items": [{"role": "user", "content": "hi"}]}),
]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return None if request.param == "memory" else f"sqlite:///{tmp_path}/conversations.db"


async def begin(
    client: httpx.AsyncClient, session: str, beginning: int = 0, **headers: str
) -> tuple[int, set[str]]:
    """The status, and the ids of conversations in the reply."""
    path, body = BEGINNINGS[beginning]
    reply = await client.post(path, json=body, headers={"X-Session-Id": session, **headers})
    return reply.status_code, {each for each in ids_in(reply.content) if each.startswith("conv_")}


def test_a_conversation_takes_the_id_that_its_client_chose(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        alice = server.clients["alice"]
        for beginning in range(len(BEGINNINGS)):
            chosen = f"conv_{beginning:032x}"
            assert await begin(alice, chosen, beginning) == (200, {chosen})
        assert await begin(alice, UUID) == (200, {OF_UUID})
        listed = (await alice.get("/chat/conversations")).json()["conversations"]
        assert len({each["conversation_id"] for each in listed}) == len(BEGINNINGS) + 1

    run(test, database_url)


def test_an_id_that_a_conversation_has_already_is_replaced_by_a_new_one(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        alice = server.clients["alice"]
        await begin(alice, CHOSEN)
        before = await alice.get(f"/chat/conversation/{CHOSEN}")
        for client in server.clients.values():
            for beginning in range(len(BEGINNINGS)):
                status, ids = await begin(client, CHOSEN, beginning)
                assert (status, len(ids)) == (200, 1) and CHOSEN not in ids
        assert (await alice.get(f"/chat/conversation/{CHOSEN}")).content == before.content

    run(test, database_url)


def test_the_id_of_a_first_turn_that_still_runs_is_replaced_by_a_new_one(database_url: str | None) -> None:
    async def test(server: OwnedServer) -> None:
        server.backend.may_go_on.clear()
        turns = []
        for owner in ("alice", "alice", "bob"):
            server.backend.is_waiting.clear()
            turns.append(asyncio.create_task(begin(server.clients[owner], CHOSEN)))
            await server.backend.is_waiting.wait()
        server.backend.may_go_on.set()
        first, *others = await asyncio.gather(*turns)
        assert first == (200, {CHOSEN})
        for status, ids in others:
            assert (status, len(ids)) == (200, 1) and CHOSEN not in ids

    run(test, database_url)


def test_of_first_turns_at_the_same_moment_one_takes_the_id_and_the_others_are_told(
    database_url: str | None,
) -> None:
    async def test(server: OwnedServer) -> None:
        path, body = BEGINNINGS[0]
        headers = {"X-Session-Id": CHOSEN}
        requests = [server.clients["alice"].post(path, json=body, headers=headers) for _ in range(4)]
        replies = await asyncio.gather(*requests)
        ids = [reply.json()["conversation_id"] for reply in replies if reply.status_code == 200]
        assert ids.count(CHOSEN) == 1
        refusals = [reply.json()["error"] for reply in replies if reply.status_code != 200]
        assert all("just begun" in refusal["message"] for refusal in refusals)
        assert len(ids) + len(refusals) == len(replies)

    run(test, database_url)


def test_any_other_session_is_for_load_balancers_only() -> None:
    async def test(server: OwnedServer) -> None:
        wrong = (
            "",
            "mine",
            "conv_5e",
            CHOSEN.upper(),
            f"{CHOSEN}0",
            CHOSEN[:-1],
            OF_UUID[5:],
            f"conv_{'g' * 32}",
        )
        for session in wrong:
            status, ids = await begin(server.clients["alice"], session)
            assert (status, len(ids)) == (200, 1) and session not in ids

    run(test)


def test_of_two_different_sessions_none_is_taken() -> None:
    async def test(server: OwnedServer) -> None:
        headers = [("X-Session-Id", CHOSEN), ("X-Session-Id", OF_UUID)]
        reply = await server.clients["alice"].post("/chat", json={"message": "hi"}, headers=headers)
        assert reply.status_code == 200
        assert not ids_in(reply.content) & {CHOSEN, OF_UUID}

    run(test)


def test_a_later_turn_belongs_to_its_conversation_whatever_the_session_says(
    database_url: str | None,
) -> None:
    async def test(server: OwnedServer) -> None:
        alice = server.clients["alice"]
        await begin(alice, CHOSEN)
        body = {"message": "and?", "conversation_id": CHOSEN}
        for session in (CHOSEN, OF_UUID):
            reply = await alice.post("/chat", json=body, headers={"X-Session-Id": session})
            assert reply.json()["conversation_id"] == CHOSEN
        assert reply.json()["message_count"] == 6

    run(test, database_url)


def test_a_request_that_is_sent_twice_gives_one_turn_in_the_chosen_conversation(
    database_url: str | None,
) -> None:
    async def test(server: OwnedServer) -> None:
        alice = server.clients["alice"]
        headers = {"X-Session-Id": CHOSEN, "Idempotency-Key": "once"}
        first, second = [await alice.post("/chat", json={"message": "hi"}, headers=headers) for _ in "12"]
        assert first.json()["conversation_id"] == CHOSEN
        assert first.content == second.content
        assert len(server.backend.requests) == 1

    run(test, database_url)
