"""The turns of a conversation over a cluster, each sent with its Idempotency-Key until it is answered."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.waiting import attempts

Way = Literal["streamed", "whole", "background", "response"]
WAYS: tuple[Way, ...] = ("streamed", "whole", "background", "response")
FIELDS = {"temperature": 0, "max_tokens": 8}
PATIENCE_S = 60.0  # for a turn, over all its attempts
PASSING = (404, 409, 429, 500, 502, 503, 504)  # 404: the events of a turn whose server is about to have ended
JSON = dict[str, Any]  # Any: a JSON document


class NotAnswered(Exception):
    """An attempt failed in a way that allows another one. The message has the reason."""


@dataclass(frozen=True)
class AnsweredTurn:
    """A turn that was acknowledged: what its client has seen of it."""

    message: str
    message_id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    seconds: float  # until the answer, for the attempt that got it


@dataclass
class Conversation:
    """The client of one conversation, which always sends the conversation's id in X-Session-Id."""

    http: httpx.AsyncClient
    number: int
    way: Way
    id: str = field(default_factory=lambda: f"conv_{secrets.token_hex(16)}")
    turns: list[AnsweredTurn] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # of attempts
    broken_streams: int = 0  # that ended without an event of their own
    offered_again: int = 0  # background turns whose replica died, and that were answered again
    ends: list[int] = field(default_factory=list)  # terminal events of each stream

    async def ask(self, message: str) -> None:
        """Asks until the message is answered.

        Raises:
            AssertionError: it is not answered in time, or refused in a way that no attempt can change.
        """
        key = secrets.token_hex(16)
        async for _ in attempts(f"an answer to {message}", PATIENCE_S):
            try:
                return await self.attempt(message, key)
            except (NotAnswered, httpx.TransportError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    async def attempt(self, message: str, key: str) -> None:
        """Asks once.

        Raises:
            NotAnswered, httpx.TransportError: it was not answered.
        """
        began = time.monotonic()
        done = await self._asked(message, key)
        self.turns.append(_turn(message, done, time.monotonic() - began))

    async def stored(self) -> JSON:
        """The conversation as the cluster has it."""
        reply = await self.http.get(f"/api/v1/chat/conversation/{self.id}", headers=self._headers())
        return json_of(reply)

    def _headers(self, key: str | None = None) -> dict[str, str]:
        return {"X-Session-Id": self.id} | ({} if key is None else {"Idempotency-Key": key})

    async def _asked(self, message: str, key: str) -> JSON:
        """Returns the ChatResponse of the turn."""
        match self.way:
            case "streamed":
                return await self._streamed(message, key)
            case "whole":
                return json_of(await self._post("/api/v1/chat", self._body(message), key))
            case "background":
                return await self._in_background(message, key)
            case "response":
                return await self._response(message, key)

    def _body(self, message: str, **fields: Any) -> JSON:  # Any: as ChatRequest types them
        place = {"conversation_id": self.id} if self.turns else {}
        return {"message": message, **FIELDS, **place, **fields}

    async def _post(self, path: str, body: JSON, key: str | None = None) -> httpx.Response:
        return await self.http.post(path, json=body, headers=self._headers(key))

    async def _streamed(self, message: str, key: str) -> JSON:
        body, headers = self._body(message, stream=True), self._headers(key)
        async with self.http.stream("POST", "/api/v1/chat", json=body, headers=headers) as reply:
            return await self._done(reply)

    async def _in_background(self, message: str, key: str) -> JSON:
        """Leaves once the turn has begun, and follows it over another connection."""
        body, headers = self._body(message, stream=True, background=True), self._headers(key)
        async with self.http.stream("POST", "/api/v1/chat", json=body, headers=headers) as reply:
            await _check(reply)
            async for name, data in events(reply):
                if name == "start":
                    message_id = data["message_id"]
                    break
            else:
                raise NotAnswered("the turn did not begin")
        done = await self._follow(message_id)
        if done["finish_reason"] == "interrupted" and not done["response"]:
            return await self._again(done)
        return done

    async def _again(self, interrupted: JSON) -> JSON:
        """Answers a turn again whose replica died before it had said anything."""
        path = f"/api/v1/chat/conversation/{interrupted['conversation_id']}/regenerate"
        body = {"message_id": interrupted["message_id"], **FIELDS}
        done = json_of(await self._post(path, body))
        self.offered_again += 1
        return done

    async def _follow(self, message_id: str) -> JSON:
        path = f"/api/v1/chat/turns/{message_id}/events"
        async with self.http.stream("GET", path, headers=self._headers()) as reply:
            return await self._done(reply)

    async def _response(self, message: str, key: str) -> JSON:
        body: JSON = {"input": message, "temperature": 0, "max_output_tokens": 8}
        if self.turns:
            body["conversation"] = self.id
        made = json_of(await self._post("/v1/responses", body, key))
        text = "".join(
            part["text"] for item in made["output"] if item["type"] == "message" for part in item["content"]
        )
        usage = made["usage"] or {"input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}}
        return {
            "conversation_id": made["conversation"]["id"],
            "message_id": f"msg_{made['id'][-32:]}",
            "response": text,
            "finish_reason": _reason_of(made),
            "usage": {
                "prompt_tokens": usage["input_tokens"],
                "cached_tokens": usage["input_tokens_details"]["cached_tokens"],
            },
        }

    async def _done(self, reply: httpx.Response) -> JSON:
        """Reads the stream to its end, and returns its last event."""
        await _check(reply)
        ends: list[tuple[str, JSON]] = []
        try:
            async for name, data in events(reply):
                if name in ("done", "error"):
                    ends.append((name, data))
        finally:
            self.ends.append(len(ends))
            self.broken_streams += not ends
        if not ends:
            raise NotAnswered("the stream ended without an event of its own")
        name, data = ends[-1]
        if name == "error":
            raise NotAnswered(str(data))
        return data


def _turn(message: str, done: JSON, seconds: float) -> AnsweredTurn:
    usage = done["usage"] or {"prompt_tokens": 0, "cached_tokens": 0}
    return AnsweredTurn(
        message,
        done["message_id"],
        done["response"],
        done["finish_reason"],
        usage["prompt_tokens"],
        usage["cached_tokens"],
        seconds,
    )


def _reason_of(response: JSON) -> str:
    """The end of a response as the native API calls it."""
    if response["status"] == "completed":
        return "stop"
    cut = (response["incomplete_details"] or {}).get("reason") == "max_output_tokens"
    return "length" if cut else "interrupted"


def json_of(reply: httpx.Response) -> JSON:
    if reply.status_code in PASSING:
        raise NotAnswered(f"{reply.status_code} {reply.text}")
    assert reply.status_code == 200, f"{reply.status_code} {reply.text}"
    found: JSON = reply.json()
    return found


async def _check(reply: httpx.Response) -> None:
    if reply.status_code != 200:
        await reply.aread()
        json_of(reply)


async def events(reply: httpx.Response) -> AsyncIterator[tuple[str, JSON]]:
    """The name and the data of each server-sent event."""
    name = ""
    async for line in reply.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
