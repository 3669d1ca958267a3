"""Measures the database of conversations: `python -m tests.benchmarks.storage [URL]`.

It fills the database if it is empty, by default a new file, and prints how long the parts of requests take.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, text

from app.models.conversation import Conversation, Message, chained, text_message
from app.models.storage.search import index_words
from app.models.storage.sql.database import Database
from app.models.storage.sql.rows import conversation_values, message_values
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.tables import conversations, messages
from app.models.storage.sql.text_index import IndexedText
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.store import PageRequest
from tests.benchmarks.machine import describe

_CONVERSATIONS = 100_000
_MESSAGES = 4  # of each
_WORDS = 12  # of each message
_VOCABULARY = 20_000  # words, of which word n is as common as 1 / n
_LENGTHS = (10, 1_000, 10_000)
_OPENED = 2_000
_REPETITIONS = 30
_OWNER = "default"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{Path(folder) / 'conversations.db'}"
        asyncio.run(_measure(url))
    return 0


async def _measure(url: str) -> None:
    database = Database(url)
    await database.open()
    store, console, machine = (
        SqlStore(database, LeaseLocks(database)),
        Console(),
        describe(),
    )
    place = f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}"
    table = Table(title=f"{url.split(':')[0]}, {place}")
    for heading in ("operation", "median, ms", "slowest, ms", "processor time, ms"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    try:
        if (await store.page(_OWNER, PageRequest(limit=1))).total == 0:
            await _fill(database, store)
        for name, operation in await _operations(store):
            times = [await _timed(operation) for _ in range(_REPETITIONS)]
            walls, computing = zip(*times, strict=True)
            figures = statistics.median(walls), max(walls), statistics.mean(computing)
            table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    finally:
        await database.close()
    console.print(table)


async def _operations(
    store: SqlStore,
) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
    found: list[tuple[str, Callable[[], Awaitable[object]]]] = []
    for length in _LENGTHS:
        appending = _Appending(store, await _long(store, length))
        found.append((f"append a turn to {length:,} messages", appending.append))
    opened = await _long(store, _OPENED)
    found.append((f"open a conversation of {_OPENED:,} messages", lambda: store.messages(opened)))
    found.append(("the last 50 turns of it", lambda: store.branch(opened, opened.head_id, 50)))
    cursor = (await store.page(_OWNER, PageRequest(limit=50, offset=1_000))).cursor
    found.append(("a page of the list", lambda: store.page(_OWNER, PageRequest(limit=50))))
    found.append(
        (
            "a page after a cursor",
            lambda: store.page(_OWNER, PageRequest(limit=50, cursor=cursor)),
        )
    )
    for query in ("w5000", "w500", "w50 w60", "w5", "w1"):
        request = PageRequest(limit=50, query=query)
        total = (await store.page(_OWNER, request)).total
        name = "more than 5,000" if total is None else f"{total:,}"
        found.append((f"a search for {query} that finds {name}", partial(store.page, _OWNER, request)))
    return found


class _Appending:
    """Appends a user message and a reply, as a turn does."""

    def __init__(self, store: SqlStore, conversation: Conversation) -> None:
        self._store = store
        self._conversation = conversation

    async def append(self) -> None:
        parent = (await self._store.branch(self._conversation, self._conversation.head_id, 1))[-1]
        added = chained((text_message("user", "and now?"), text_message("assistant", "yes")), parent)
        self._conversation = self._conversation.with_messages(*added)
        await self._store.commit(self._conversation, added)


async def _long(store: SqlStore, length: int) -> Conversation:
    made = _turns(random.Random(length), length)
    conversation = Conversation(owner=_OWNER).with_messages(*made)
    await store.commit(conversation, made)
    return conversation


async def _timed(operation: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Milliseconds, and those that this process and PostgreSQL computed, whatever else runs."""
    database = _postgres_s()
    began, computed = time.perf_counter(), time.process_time()
    await operation()
    wall, computed = time.perf_counter() - began, time.process_time() - computed
    return wall * 1_000, (computed + _postgres_s() - database) * 1_000


def _postgres_s() -> float:
    """Seconds that all processes of PostgreSQL on this machine have computed, in steps of 10 ms."""
    return float(
        sum(
            process.info["cpu_times"].user + process.info["cpu_times"].system
            for process in psutil.process_iter(["name", "cpu_times"])
            if process.info["name"] == "postgres"
        )
    )


async def _fill(database: Database, store: SqlStore) -> None:
    """Adds many conversations, a thousand in each transaction."""
    rng = random.Random(0)
    for first in range(1, _CONVERSATIONS, 1_000):
        async with database.writing() as connection:
            made = [_turns(rng, _MESSAGES) for _ in range(1_000)]
            rows = [conversation_values(Conversation(owner=_OWNER).with_messages(*each)) for each in made]
            numbered = [row | {"number": first + index} for index, row in enumerate(rows)]
            await connection.execute(insert(conversations), numbered)
            await connection.execute(
                insert(messages),
                [
                    message_values(message) | {"conversation": number, "position": position}
                    for number, each in enumerate(made, first)
                    for position, message in enumerate(each, 1)
                ],
            )
            for number, each in enumerate(made, first):
                texts = [IndexedText(at, index_words(message.content)) for at, message in enumerate(each, 1)]
                await store.index.add(connection, _OWNER, number, texts)
    async with database.writing() as connection:
        if not database.is_sqlite:
            await connection.execute(
                text("SELECT setval(pg_get_serial_sequence('conversations', 'number'), :last)"),
                {"last": _CONVERSATIONS + 1},
            )
        await connection.execute(text("ANALYZE"))


def _turns(rng: random.Random, count: int) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return chained(text_message(roles[index % 2], _text(rng)) for index in range(count))  # type: ignore[arg-type]


def _text(rng: random.Random) -> str:
    return " ".join(f"w{int(_VOCABULARY ** rng.random())}" for _ in range(_WORDS))


if __name__ == "__main__":
    sys.exit(main())
