"""A server that stores conversations, a model that gives prescribed replies, and OpenAI's own clients."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace

import openai
import pytest

from app.core.config import Settings
from app.core.deadline import Deadline
from app.engine.backend import GenerationEvent, ModelInput
from app.engine.ipc.messages import Finished, SamplingParams
from app.main import create_app
from app.models.branches import ConversationBranches
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat.token_counter import TokenCounter
from app.models.chat_manager import ChatModelManager
from app.models.choices import ChoiceGenerator
from app.models.storage.storage import choose_storage
from app.models.turns.turn_registry import TurnRegistry
from app.services import Services
from tests.api.fakes import Scripted, scripted_services, serving
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels
from tests.waiting import LIMIT_S

KEY = "key-of-alice"
KEYS = f"alice:{KEY},bob:key-of-bob"


@dataclass
class GatedBackend(StandInBackend):
    """Waits before the end of each reply while `gate` is closed."""

    gate: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        self.reply = WHOLE
        self.gate.set()
        for remembered in (self.requests, self.sampling, self.deadlines, self.deaths):
            remembered.clear()

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        async for event in super().generate(model_input, sampling, deadline):
            if isinstance(event, Finished):
                assert await asyncio.to_thread(self.gate.wait, LIMIT_S), "the gate stayed closed"
            yield event


def services_of(settings: Settings, backend: StandInBackend) -> Services:
    """Real services, answered by the backend."""
    services, models = scripted_services(Scripted(), settings), StandInModels(backend)
    generator, storage = ChatGenerator(models, services.limits), choose_storage(settings)
    store, locks = storage.store, storage.locks
    return replace(
        services,
        chats=ChatModelManager(settings, store, locks, generator, TurnRegistry(), storage.key_records),
        conversations=ConversationManager(settings, store, locks, models),
        branches=ConversationBranches(settings, store, locks),
        choices=ChoiceGenerator(settings, generator),
        tokens=TokenCounter(models),
        storage=storage,
    )


@pytest.fixture(scope="package")
def served() -> Iterator[tuple[GatedBackend, str]]:
    """One server for all tests of this folder, because starting one takes long."""
    backend = GatedBackend()
    settings = Settings(_env_file=None, api_keys=KEYS)
    with serving(create_app(settings, lambda given: services_of(given, backend))) as url:
        yield backend, url


@pytest.fixture
def backend(served: tuple[GatedBackend, str]) -> Iterator[GatedBackend]:
    served[0].reset()
    yield served[0]
    served[0].gate.set()


@pytest.fixture
def url(served: tuple[GatedBackend, str], backend: GatedBackend) -> str:
    return f"{served[1]}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def stranger(url: str) -> Iterator[openai.OpenAI]:
    """A client with another key."""
    with openai.OpenAI(base_url=url, api_key="key-of-bob", max_retries=0) as made:
        yield made
