"""The figures of the store of conversations."""

import asyncio
from collections.abc import Mapping

import pytest

from app.core.config import Settings
from app.core.errors import ConversationNotFound, StoreUnavailable
from app.models.conversation import Conversation
from app.models.metrics.reporter import MetricsReporter
from app.models.metrics.server_metrics import ServerMetrics
from app.models.metrics.store_metrics import MeasuredStore
from app.models.storage.storage import MemoryStorage
from tests.models.metrics.exposition import figures_of


class FailingStorage:
    dropped: Mapping[str, int] = {}

    async def count(self) -> int:
        raise StoreUnavailable("The database cannot be reached.")


def test_calls_are_timed_and_conversations_counted() -> None:
    metrics, storage = ServerMetrics(), MemoryStorage(Settings(_env_file=None))
    store = MeasuredStore(storage.store, metrics.store)
    conversation = Conversation(owner="anna")

    async def use() -> None:
        await store.commit(conversation)
        assert await store.get("anna", conversation.id) == conversation
        with pytest.raises(ConversationNotFound):
            await store.get("bob", conversation.id)

    asyncio.run(use())
    figures = figures_of(MetricsReporter(metrics, storage=storage))
    assert figures.total("llm_store_seconds_count", operation="commit") == 1
    assert figures.total("llm_store_seconds_count", operation="get") == 2
    assert figures.total("llm_store_failures_total") == 0
    assert figures.total("llm_conversations") == 1


def test_dropped_conversations_are_counted_by_the_limit() -> None:
    storage = MemoryStorage(Settings(_env_file=None, max_conversations=1))

    async def use() -> None:
        for _ in range(3):
            await storage.store.commit(Conversation(owner="anna"))

    asyncio.run(use())
    figures = figures_of(MetricsReporter(storage=storage))
    dropped = "llm_conversations_dropped_total"
    assert figures.total(dropped, limit="number") == figures.total(dropped) == 2


def test_store_that_cannot_be_used_counts_as_failure_and_hides_no_other_figure() -> None:
    metrics = ServerMetrics()
    with pytest.raises(StoreUnavailable), metrics.store.measure("get"):
        raise StoreUnavailable("The database cannot be reached.")
    figures = figures_of(MetricsReporter(metrics, storage=FailingStorage()))
    assert figures.total("llm_store_failures_total", operation="get") == 1
    assert "llm_conversations" not in figures.names
