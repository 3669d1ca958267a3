"""A server whose model gives prescribed replies, and OpenAI's own client for it."""

from collections.abc import Iterator
from dataclasses import replace

import openai
import pytest

from app.core.config import Settings
from app.main import create_app
from app.models.chat.generation import ChatGenerator
from app.models.choices import ChoiceGenerator
from tests.api.fakes import Scripted, scripted_services, serving
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels


@pytest.fixture
def backend() -> StandInBackend:
    return StandInBackend(reply=WHOLE)


@pytest.fixture
def client(backend: StandInBackend) -> Iterator[openai.OpenAI]:
    settings = Settings(_env_file=None)
    choices = ChoiceGenerator(settings, ChatGenerator(StandInModels(backend)))
    services = replace(scripted_services(Scripted(), settings), choices=choices)
    with (
        serving(create_app(settings, lambda _: services)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made
