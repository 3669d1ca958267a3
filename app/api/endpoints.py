"""Adds all routes to the application: the APIs, health, metrics, the index, and the pages at /ui and /docs.

Each handler parses its request, calls one method of a service, and returns. The services raise the errors.
"""

from fastapi import APIRouter, Depends, FastAPI

from app.api import docs
from app.api.anthropic import messages as anthropic_messages
from app.api.dependencies import reject_unknown_input
from app.api.monitoring import activity, metrics
from app.api.native import chat, conversations, generation, health, models, tokens
from app.api.openai import chat as openai_chat, models as openai_models
from app.api.openai.completions import routes as openai_completions
from app.api.openai.conversations import routes as openai_conversations
from app.api.openai.responses import routes as openai_responses
from app.api.paths import NATIVE_PREFIX
from app.api.web.docs_page import add_docs_page
from app.api.web.page import add_page

router = APIRouter()
for part in (chat, conversations, models, generation, tokens, activity):
    router.include_router(part.router)


openai_router = APIRouter()
for openai_part in (
    openai_chat,
    openai_responses,
    openai_conversations,
    openai_completions,
    openai_models,
    anthropic_messages,
):
    openai_router.include_router(openai_part.router)


def add_routes(app: FastAPI, has_key: bool) -> None:
    """Adds the routes. If requests need an API key (`has_key`), /docs asks for it."""
    strict = Depends(reject_unknown_input)
    app.include_router(
        router, dependencies=[strict, *docs.key_fields(has_key)], responses=docs.key_refusal(has_key)
    )
    app.include_router(
        openai_router, dependencies=docs.key_fields(has_key), responses=docs.key_refusal(has_key)
    )
    app.include_router(health.health_router, prefix=NATIVE_PREFIX, dependencies=[strict])
    app.include_router(health.health_router, include_in_schema=False, dependencies=[strict])
    app.include_router(health.index_router, dependencies=[strict])
    app.include_router(
        metrics.router, dependencies=[strict, *docs.key_fields(has_key)], responses=docs.key_refusal(has_key)
    )
    add_docs_page(app)
    add_page(app)
