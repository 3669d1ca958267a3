"""Owns the application: builds everything from the settings, and closes it.

`uvicorn app.main:app` finds `app` through `__getattr__` below, so that importing this module does nothing.
"""

import asyncio
import difflib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import FrameType

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from app import __version__
from app.api import docs, endpoints
from app.api.body import BodyGuard
from app.api.dependencies import Services, reject_unknown_input
from app.api.errors import install_error_handlers
from app.api.middleware import Guard, HostCheck, KeyCheck, RequestLog
from app.api.native import health as status
from app.core.catalogue import CATALOGUE, ModelProfile
from app.core.config import NO_MODEL, Settings, SettingsError, load_settings
from app.core.errors import ModelNotFound
from app.core.logging import configure
from app.core.models_file import with_models_of
from app.models.chat.generation import TextGenerator
from app.models.chat.store import ConversationStore
from app.models.chat_manager import ChatModelManager
from app.models.hub.client import Hub
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager

logger = logging.getLogger(__name__)

NAME = "LLM server"
Build = Callable[[Settings], Services]


def build_services(settings: Settings, catalogue: Mapping[str, ModelProfile] = CATALOGUE) -> Services:
    """Everything below HTTP. Nothing runs yet."""
    catalogue = with_models_of(settings.models_file, catalogue)
    token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
    models = ModelManager(settings, catalogue, Hub(settings.model_cache_dir, token=token))
    store = ConversationStore(max_conversations=settings.max_conversations, ttl_s=settings.conversation_ttl)
    return Services(
        models=models,
        chats=ChatModelManager(settings, store, models),
        generator=TextGenerator(settings, models),
        overview=ServerStatus(models),
    )


def create_app(settings: Settings | None = None, build: Build = build_services) -> FastAPI:
    """An application that owns all it needs.

    Raises:
        SettingsError: the settings were not given, and those of the environment are wrong.
    """
    settings = load_settings() if settings is None else settings
    _check_models(settings)
    app = FastAPI(
        title=NAME,
        version=__version__,
        description=docs.DESCRIPTION,
        openapi_tags=docs.TAGS,
        lifespan=_lifespan(settings, build),
        middleware=_middleware(settings),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install_error_handlers(app)
    _add_routes(app, has_key=settings.api_key is not None)
    return app


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(name)
    try:
        return create_app()
    except SettingsError as error:
        raise SystemExit(f"Wrong settings. {error}") from None


def _check_models(settings: Settings) -> None:
    """Before anything is built: a server that starts has a catalogue, and the model it was started with."""
    catalogue = with_models_of(settings.models_file, CATALOGUE)
    if settings.model_name == NO_MODEL:
        return
    try:
        ModelRegistry(catalogue, settings.allow_any_model).find(settings.model_name)
    except ModelNotFound as error:
        raise SettingsError(f"LLM_MODEL_NAME: {error.message} {error.hint}") from None


def _middleware(settings: Settings) -> list[Middleware]:
    """The outermost first. Cross-origin headers go onto refusals too, or a page could not read why."""
    origins = list(settings.cors_origins)
    cross_origin = Middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
    )
    guard = Middleware(Guard, _check(settings))
    body = Middleware(BodyGuard, settings.max_body_bytes)
    return [Middleware(RequestLog), *([cross_origin] if origins else []), guard, body]


def _check(settings: Settings) -> Callable[[Scope], None]:
    if settings.api_key is None:
        return HostCheck(settings.allowed_hosts, settings.cors_origins)
    return KeyCheck(settings.api_key.get_secret_value())


def _add_routes(app: FastAPI, has_key: bool) -> None:
    strict = Depends(reject_unknown_input)
    app.include_router(
        endpoints.router,
        dependencies=[strict, *docs.key_fields(has_key)],
        responses=docs.key_refusal(has_key),
    )
    app.include_router(status.health_router, prefix="/api/v1", dependencies=[strict])
    app.include_router(status.health_router, include_in_schema=False, dependencies=[strict])
    app.include_router(status.index_router, dependencies=[strict])
    docs.add_docs_page(app)


def _lifespan(settings: Settings, build: Build) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure(settings.log_level)
        _warn_of_misspelt(os.environ)
        app.state.services = services = build(settings)
        docs.describe(app)
        stopping = asyncio.Event()
        closing = asyncio.create_task(_close(services, stopping))
        try:
            await services.models.start()
            with _on_stop_signal(stopping.set), _ending_with_parent():
                yield
        finally:
            stopping.set()
            await closing

    return lifespan


def _warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """A misspelt setting in the environment would change nothing and say nothing. Other programs' names begin
    with LLM_ too, so only what resembles one of ours is told."""
    known = [field.upper() for field in Settings.model_fields]
    for name in environ:
        prefix, setting = name.upper()[:4], name.upper()[4:]
        nearest = difflib.get_close_matches(setting, known, n=1) if prefix == "LLM_" else []
        if nearest and nearest != [setting]:
            logger.warning("%s in the environment is no setting: is LLM_%s meant?", name, nearest[0])


async def _close(services: Services, stopping: asyncio.Event) -> None:
    """Closes at the signal, while streams are still open, so that each ends with its own `error` event.

    The server itself ends the lifespan only after the last of them.
    """
    await stopping.wait()
    await services.models.close()


@contextmanager
def _ending_with_parent() -> Iterator[None]:
    """`uvicorn --reload` serves from a child, which would live on when its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(parent.sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent.sentinel, end)
    try:
        yield
    finally:
        loop.remove_reader(parent.sentinel)


@contextmanager
def _on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at SIGTERM and SIGINT, and then what the server had installed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    installed = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        handler = installed[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in installed.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in installed.items():
            signal.signal(number, handler)
