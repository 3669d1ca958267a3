"""Builds the application from the settings.

Importing this module builds nothing: `uvicorn app.main:app` gets `app` from `__getattr__` below.
"""

import logging
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from app import __version__
from app.api import docs, endpoints
from app.api.body import BodyGuard, FramingGuard
from app.api.errors import install_error_handlers
from app.api.middleware import Guard, HeadAsGet, HostCheck, KeyCheck
from app.api.monitoring.request_log import RequestLog
from app.api.rate_limits import RateLimit
from app.api.web.docs_page import DescribedApp, build_validators
from app.composition import build_services, check_models
from app.core.api_keys import KeyRing
from app.core.config import Settings, SettingsError, load_settings, warn_of_misspelt_settings
from app.core.machine import allow_many_open_files
from app.core.telemetry.logging import configure
from app.lifecycle import closing_tracer, open_storage, reloading, running
from app.models.storage.storage import choose_storage
from app.services import Services
from app.single_process import SingleProcess, check_single_process

logger = logging.getLogger(__name__)

NAME = "LLM server"
_STARTUP_FAILURE = 3  # exit status with which uvicorn gives up instead of restarting a child for ever
Build = Callable[[Settings], Services]


def create_app(settings: Settings | None = None, build: Build = build_services) -> FastAPI:
    """Returns an application that builds its services when it starts and closes them when it stops.

    If `settings` is None, it reads them from the environment and `.env`.

    Raises:
        SettingsError: a setting or an API key is wrong, or no model has the name in the settings.
    """
    settings = load_settings() if settings is None else settings
    check_models(settings)
    choose_storage(settings)  # raises if it cannot be
    keys = KeyRing(settings)
    app = DescribedApp(
        title=NAME,
        version=__version__,
        description=docs.DESCRIPTION,
        openapi_tags=docs.TAGS,
        lifespan=_lifespan(settings, keys, build),
        middleware=_middleware(settings, keys),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.admins = keys.admins
    install_error_handlers(app)
    endpoints.add_routes(app, has_key=len(keys) > 0)
    return app


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(name)
    try:
        check_single_process(sys.argv, os.environ)
        return create_app()
    except SettingsError as error:
        sys.stderr.write(f"Wrong settings. {error}\n")
        sys.exit(1 if multiprocessing.parent_process() is None else _STARTUP_FAILURE)


def _lifespan(
    settings: Settings, keys: KeyRing, build: Build
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure(settings.log_level, settings.log_format)
        logger.debug("settings: version=%s python=%s %s", __version__, sys.version.split()[0], settings.facts)
        warn_of_misspelt_settings(os.environ)
        allow_many_open_files()
        app.state.services = services = build(settings)
        build_validators(app)
        async with (
            closing_tracer(services.tracer),
            open_storage(services.storage),
            running(services.models, services.chats) as app.state.stopping,
            reloading(keys),
        ):
            yield

    return lifespan


def _middleware(settings: Settings, keys: KeyRing) -> list[Middleware]:
    """Returns the middleware, the outermost first. CORS comes before the checks, so that a page can also read
    a refusal."""
    origins = list(settings.cors_origins)
    cross_origin = Middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
    )
    return [
        Middleware(SingleProcess),
        Middleware(RequestLog),
        Middleware(FramingGuard),
        *([cross_origin] if origins else []),
        Middleware(Guard, _check(settings, keys)),
        Middleware(RateLimit),
        Middleware(BodyGuard, settings.max_body_bytes),
        Middleware(HeadAsGet),
    ]


def _check(settings: Settings, keys: KeyRing) -> Callable[[Scope], str | None]:
    if len(keys) > 0:
        return KeyCheck(keys, settings.metrics_addresses)
    return HostCheck(settings.allowed_hosts, settings.cors_origins)
