"""Sends a server the requests of some users, from a process of its own, and records when pieces arrive.

It imports no library, so that many such processes start quickly and read quickly: one process that parsed
all streams would be slower than the server. Standard input has a JSON object, as `Work`; the output is a line
of JSON for each reply, as `Reply`.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

from tests.waiting import until


@dataclass
class Work:
    """`messages[i]` are those of user i, who sends one after the other. Times are of the monotonic clock."""

    port: int
    begin_at: float
    reply_tokens: int
    messages: list[list[str]]


@dataclass
class Reply:
    began: float
    arrivals: list[float] = field(default_factory=list)  # of the pieces
    words: list[int] = field(default_factory=list)  # of each piece
    tokens: int = 0  # of the whole reply, as reported


async def serve(work: Work) -> None:
    users = [_user(work, messages) for messages in work.messages]
    await until(lambda: time.monotonic() >= work.begin_at, "the beginning")
    for replies in await asyncio.gather(*users):
        for reply in replies:
            sys.stdout.write(json.dumps(asdict(reply)) + "\n")


async def _user(work: Work, messages: list[str]) -> list[Reply]:
    return [await _ask(work, message) for message in messages]


async def _ask(work: Work, message: str) -> Reply:
    fields = {"message": message, "max_tokens": work.reply_tokens, "stream": True, "temperature": 0}
    body = json.dumps(fields | {"repetition_penalty": 1}).encode()
    head = "POST /api/v1/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", work.port, limit=2**20)
    reply = Reply(time.monotonic())
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + kind).encode() + body)
    event = b""
    while line := await reader.readline():
        if line.startswith(b"event: "):
            event = line[7:].strip()
        elif line.startswith(b"data: "):
            _note(reply, event, line[6:])
    writer.close()
    assert reply.tokens, "the reply has no end"
    if not reply.arrivals:  # its only token ended it
        reply.arrivals, reply.words = [time.monotonic()], [1]
    return reply


def _note(reply: Reply, event: bytes, data: bytes) -> None:
    match event:
        case b"delta":
            reply.arrivals.append(time.monotonic())
            reply.words.append(max(1, data.count(b" ")))
        case b"done":
            reply.tokens = json.loads(data)["usage"]["completion_tokens"]
        case b"error":
            raise RuntimeError(data.decode())


if __name__ == "__main__":
    asyncio.run(serve(Work(**json.load(sys.stdin))))
