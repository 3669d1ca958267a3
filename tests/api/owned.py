"""A whole application with two keys, real services and a stand-in model, in the loop of the test."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import httpx

from app.core.config import Settings
from app.core.deadline import Deadline
from app.engine.backend import GenerationEvent, ModelInput
from app.engine.ipc.messages import SamplingParams
from app.main import create_app
from app.models.branches import ConversationBranches
from app.models.chat.completion import TextGenerator
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat.token_counter import TokenCounter
from app.models.chat_manager import ChatModelManager
from app.models.choices import ChoiceGenerator
from app.models.storage.storage import choose_storage
from app.models.turns.turn_registry import TurnRegistry
from app.services import Services
from tests.api.fakes import Scripted, fake_app, scripted_services
from tests.models.stand_in import HELLO, StandInBackend, StandInModels

OWNERS = ("alice", "bob")
_KEYS = ",".join(f"{owner}:key-of-{owner}" for owner in OWNERS)


@dataclass
class PausingBackend(StandInBackend):
    """Waits before each reply until `may_go_on` is set."""

    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    is_waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        self.is_waiting.set()
        await self.may_go_on.wait()
        async for event in super().generate(model_input, sampling, deadline):
            yield event


@dataclass
class OwnedServer:
    """The application, a client for each owner, and the backend that answers both."""

    backend: PausingBackend
    routes: dict[str, list[str]]  # the methods of each path
    clients: dict[str, httpx.AsyncClient]


@asynccontextmanager
async def owned_server(**settings: Any) -> AsyncIterator[OwnedServer]:  # Any: as Settings types them
    backend = PausingBackend(reply=HELLO)
    backend.may_go_on.set()

    def build(settings: Settings) -> Services:
        services, models = scripted_services(Scripted(), settings), StandInModels(backend)
        generator, storage = ChatGenerator(models, services.limits), choose_storage(settings)
        return replace(
            services,
            chats=ChatModelManager(
                settings, storage.store, storage.locks, generator, TurnRegistry(), storage.key_records
            ),
            conversations=ConversationManager(settings, storage.store, storage.locks, models),
            branches=ConversationBranches(settings, storage.store, storage.locks),
            generator=TextGenerator(ChoiceGenerator(settings, generator)),
            storage=storage,
            tokens=TokenCounter(models),
        )

    app = create_app(Settings(_env_file=None, api_keys=_KEYS, log_level="WARNING", **settings), build)
    async with app.router.lifespan_context(app):
        clients = {
            owner: httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://localhost/api/v1",
                headers={"X-API-Key": f"key-of-{owner}", "x-request-id": "same"},
            )
            for owner in OWNERS
        }
        try:
            yield OwnedServer(backend, _routes(), clients)
        finally:
            for client in clients.values():
                await client.aclose()


@cache
def _routes() -> dict[str, list[str]]:
    """The methods of each path, below /api/v1 where it is there; to build the schema takes long."""
    return {
        path.removeprefix("/api/v1"): [method.upper() for method in operations]
        for path, operations in fake_app(Scripted()).openapi()["paths"].items()
    }


def run(test: Callable[[OwnedServer], Coroutine[Any, Any, None]], database_url: str | None = None) -> None:
    """Runs the test with a server of its own, which keeps conversations in memory or in a database."""

    async def main() -> None:
        async with owned_server(database_url=database_url) as server:
            await test(server)

    asyncio.run(main())


def ids_in(content: bytes) -> set[str]:
    """The ids of conversations and messages in a reply."""
    return set(re.findall(r"(?:conv|msg)_[0-9a-f]{32}", content.decode()))


def answer(reply: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a client sees of a reply."""
    return reply.status_code, sorted(reply.headers.items()), reply.content
