"""Measures the calls of the store of conversations."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.core.errors import StoreUnavailable
from app.models.conversation import Conversation, Message
from app.models.storage.store import ConversationPage, ConversationStore, PageRequest, StoredTurn

_CALL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class StoreMetrics:
    """The figures of all calls of a store."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._call_s = Histogram(
            "llm_store_seconds",
            "Time of the calls of the store of conversations.",
            ("operation",),
            buckets=_CALL_S,
            registry=registry,
        )
        self._failures = Counter(
            "llm_store_failures",
            "Calls that failed because the store could not be used.",
            ("operation",),
            registry=registry,
        )

    @contextmanager
    def measure(self, operation: str) -> Iterator[None]:
        """Measures one call. `operation` must be one of a few names."""
        began = self._clock()
        try:
            yield
        except StoreUnavailable:
            self._failures.labels(operation).inc()
            raise
        finally:
            self._call_s.labels(operation).observe(self._clock() - began)


class MeasuredStore:
    """A ConversationStore that measures the calls of another one."""

    def __init__(self, store: ConversationStore, metrics: StoreMetrics) -> None:
        self._store = store
        self._metrics = metrics

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        """See ConversationStore."""
        with self._metrics.measure("get"):
            return await self._store.get(owner, conversation_id)

    async def branch(
        self, conversation: Conversation, leaf_id: str | None, turns: int | None = None
    ) -> tuple[Message, ...]:
        """See ConversationStore."""
        with self._metrics.measure("branch"):
            return await self._store.branch(conversation, leaf_id, turns)

    async def messages(self, conversation: Conversation) -> tuple[Message, ...]:
        """See ConversationStore."""
        with self._metrics.measure("messages"):
            return await self._store.messages(conversation)

    async def has(self, conversation_id: str) -> bool:
        """See ConversationStore."""
        with self._metrics.measure("has"):
            return await self._store.has(conversation_id)

    async def reserve(self, conversation: Conversation) -> None:
        """See ConversationStore."""
        with self._metrics.measure("reserve"):
            await self._store.reserve(conversation)

    async def begin_turn(self, conversation: Conversation, new_messages: Sequence[Message]) -> None:
        """See ConversationStore."""
        with self._metrics.measure("begin_turn"):
            await self._store.begin_turn(conversation, new_messages)

    async def forget_turn(self, conversation: Conversation) -> None:
        """See ConversationStore."""
        with self._metrics.measure("forget_turn"):
            await self._store.forget_turn(conversation)

    async def find_turn(self, owner: str, message_id: str) -> StoredTurn | None:
        """See ConversationStore."""
        with self._metrics.measure("find_turn"):
            return await self._store.find_turn(owner, message_id)

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        """See ConversationStore."""
        with self._metrics.measure("commit"):
            await self._store.commit(conversation, new_messages)

    async def delete(self, conversation: Conversation) -> None:
        """See ConversationStore."""
        with self._metrics.measure("delete"):
            await self._store.delete(conversation)

    async def page(self, owner: str, page: PageRequest) -> ConversationPage:
        """See ConversationStore."""
        with self._metrics.measure("page"):
            return await self._store.page(owner, page)
