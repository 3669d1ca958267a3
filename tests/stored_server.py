"""Runs a server whose conversations are stored as the settings say, and answered without a model.

`python -m tests.stored_server`; the settings come from the environment.
"""

from dataclasses import replace

import uvicorn

from app.api.http_protocol import DeadlineProtocol
from app.composition import build_services
from app.core.config import Settings, load_settings
from app.main import create_app
from app.models.branches import ConversationBranches
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from app.models.storage.storage import choose_storage
from app.models.turns.turn_registry import TurnRegistry
from app.services import Services
from tests.models.stand_in import HELLO, StandInBackend, StandInModels


def build(settings: Settings) -> Services:
    """The services of the program, but chats that a stand-in answers."""
    services, storage = build_services(settings), choose_storage(settings)
    assert isinstance(services.models, ModelManager)
    models = StandInModels(StandInBackend(reply=HELLO))
    return replace(
        services,
        chats=ChatModelManager(
            settings, storage.store, storage.locks, ChatGenerator(models), TurnRegistry(), storage.key_records
        ),
        conversations=ConversationManager(settings, storage.store, storage.locks, models),
        branches=ConversationBranches(settings, storage.store, storage.locks),
        status=ServerStatus(services.models, storage),
        storage=storage,
    )


if __name__ == "__main__":
    settings = load_settings()
    uvicorn.run(create_app(settings, build), port=settings.port, log_config=None, http=DeadlineProtocol)
