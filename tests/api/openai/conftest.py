"""A server whose model gives prescribed replies, and OpenAI's own client for it."""

from collections.abc import Iterator
from dataclasses import replace

import openai
import pytest

from app.core.config import Settings
from app.main import create_app
from app.models.chat.generation import ChatGenerator
from app.models.chat.token_counter import TokenCounter
from app.models.choices import ChoiceGenerator
from tests.api.fakes import Scripted, scripted_services, serving
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels


@pytest.fixture
def backend() -> StandInBackend:
    return StandInBackend(reply=WHOLE)


@pytest.fixture
def client(backend: StandInBackend) -> Iterator[openai.OpenAI]:
    settings = Settings(_env_file=None)
    models = StandInModels(backend)
    choices, tokens = ChoiceGenerator(settings, ChatGenerator(models)), TokenCounter(models)
    services = replace(scripted_services(Scripted(), settings), choices=choices, tokens=tokens)
    with (
        serving(create_app(settings, lambda _: services)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made
