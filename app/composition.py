"""Builds the services below HTTP from the settings."""

import os
from collections.abc import Mapping

from app.core.catalogue import CATALOGUE, ModelProfile, with_windows
from app.core.config import NO_MODEL, Settings, SettingsError
from app.core.errors import ModelNotFound
from app.core.models_file import with_models_of
from app.core.telemetry.choice import choose_tracer
from app.engine.ipc.launcher import WorkerLauncher
from app.models.branches import ConversationBranches
from app.models.chat.completion import TextGenerator
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat.token_counter import TokenCounter
from app.models.chat_manager import ChatModelManager
from app.models.choices import ChoiceGenerator
from app.models.hub.client import Hub
from app.models.hub.local_models import LocalModels
from app.models.key_limits import KeyLimits
from app.models.lifecycle.engines import EngineStarter, WorkerStarter
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.status import ServerStatus
from app.models.metrics.reporter import MetricsReporter
from app.models.metrics.server_metrics import ServerMetrics
from app.models.metrics.store_metrics import MeasuredStore
from app.models.model_manager import ModelManager
from app.models.storage.storage import Storage, choose_storage
from app.models.turns.turn_registry import MAX_RUNNING, TurnRegistry
from app.services import Services


def build_services(
    settings: Settings,
    catalogue: Mapping[str, ModelProfile] = CATALOGUE,
    launcher: WorkerLauncher | None = None,
    engines: EngineStarter | None = None,
) -> Services:
    """Returns services that serve real models. They load nothing before `models.start()`.

    Without `engines`, the models run in worker processes, which `launcher` starts.

    Raises:
        SettingsError: LLM_DATABASE_URL is wrong.
    """
    engines = WorkerStarter(settings, launcher) if engines is None else engines
    metrics = ServerMetrics(tracer=choose_tracer(os.environ))
    models = _model_manager(settings, catalogue, engines, metrics)
    return _services_over(settings, models, choose_storage(settings), metrics)


def _model_manager(
    settings: Settings,
    catalogue: Mapping[str, ModelProfile],
    engines: EngineStarter,
    metrics: ServerMetrics,
) -> ModelManager:
    token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
    return ModelManager(
        settings,
        _known_models(settings, catalogue),
        Hub(settings.model_cache_dir, token=token),
        engines=engines,
        local=LocalModels(context_length=settings.context_length) if settings.find_local_models else None,
        metrics=metrics.lifecycle,
    )


def _services_over(
    settings: Settings, models: ModelManager, storage: Storage, metrics: ServerMetrics
) -> Services:
    limits = KeyLimits.of(settings)
    generator = ChatGenerator(models, limits, metrics.requests)
    choices = ChoiceGenerator(settings, generator)
    store = MeasuredStore(storage.store, metrics.store)
    turns = TurnRegistry(
        max_running=max(MAX_RUNNING, settings.max_active_requests + settings.max_queued_requests)
    )
    return Services(
        models=models,
        chats=ChatModelManager(settings, store, storage.locks, generator, turns, storage.key_records),
        conversations=ConversationManager(settings, store, storage.locks, models),
        branches=ConversationBranches(settings, store, storage.locks),
        generator=TextGenerator(choices),
        choices=choices,
        tokens=TokenCounter(models),
        status=ServerStatus(models, storage),
        storage=storage,
        limits=limits,
        request_timeout_s=settings.request_timeout,
        metrics=MetricsReporter(metrics, models, storage),
        tracer=metrics.requests.tracer,
    )


def check_models(settings: Settings) -> None:
    """Raises SettingsError if the models file is wrong, or if no model has the name in the settings."""
    catalogue = _known_models(settings, CATALOGUE)
    if settings.model_name == NO_MODEL:
        return
    try:
        ModelRegistry(catalogue, settings.allow_any_model).find(settings.model_name)
    except ModelNotFound as error:
        raise SettingsError(f"LLM_MODEL_NAME: {error.message} {error.hint}") from None


def _known_models(settings: Settings, catalogue: Mapping[str, ModelProfile]) -> Mapping[str, ModelProfile]:
    """Returns the models of the catalogue and of the models file, and the model that the settings name.

    The settings may name one that another program keeps here. The others are found after the start.
    """
    catalogue = with_windows(catalogue, settings.context_length)
    catalogue = with_models_of(settings.models_file, catalogue, settings.context_length)
    is_named = settings.find_local_models and settings.model_name != NO_MODEL
    local = LocalModels(context_length=settings.context_length)
    return local.add_named(catalogue, settings.model_name) if is_named else catalogue
