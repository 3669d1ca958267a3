"""Routes that describe the server: the index, and the health checks for people and probes."""

import asyncio

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from app import __version__
from app.api.dependencies import ServicesDep
from app.api.docs import fails_with
from app.api.web.page import page, prefers_page
from app.core.errors import DomainError, ModelUnavailable, StoreUnavailable
from app.models.schemas import HealthResponse

index_router = APIRouter(tags=["Health"])
health_router = APIRouter(prefix="/health", tags=["Health"])

_RETRY_AFTER_S = 2  # while a model loads
_CHAT = '{"message": "What is the capital of France?"}'


class Route(BaseModel):
    method: str
    path: str
    description: str


class Index(BaseModel):
    name: str
    version: str
    docs: str
    first_requests: list[str]
    routes: list[Route]


class Alive(BaseModel):
    status: str = "ok"


@index_router.get("/", response_model=Index)
async def index(request: Request, response: Response) -> Index | Response:
    """Lists all routes, and some requests to try first. A browser gets the page of /ui."""
    if prefers_page(request):
        return await page(request)
    response.headers["Vary"] = "Accept"
    return await asyncio.to_thread(_index, request.app, str(request.base_url).rstrip("/"))


@health_router.get("")
async def health(services: ServicesDep) -> HealthResponse:
    """Reports the state of the server and of the current model, and the progress of loads, always as 200."""
    return services.status.health()


@health_router.get("/live")
async def live() -> Alive:
    """Returns 200 as long as the process serves. If this probe fails, restart the server."""
    return Alive()


@health_router.get("/ready", responses=fails_with(503))
async def ready(services: ServicesDep) -> HealthResponse:
    """Returns 200 if the server can answer now; 503 if its model loads, or its worker or database fails."""
    state = services.status.health()
    if not services.status.is_ready():
        raise _not_ready(state)
    return state


def _not_ready(state: HealthResponse) -> DomainError:
    if state.storage_error is not None:
        return StoreUnavailable(state.storage_error, retry_after=_RETRY_AFTER_S)
    if state.status == "loading":
        return ModelUnavailable(f"{state.current_model} is loading.", retry_after=_RETRY_AFTER_S)
    error = state.model.error if state.model is not None else None
    if state.status == "degraded":
        message = error or f"The worker of {state.current_model} failed; it is started again."
        return ModelUnavailable(message, retry_after=_RETRY_AFTER_S)
    return ModelUnavailable(
        error or f"{state.current_model} cannot serve.", hint="GET /api/v1/health has the details."
    )


def _index(app: FastAPI, base: str) -> Index:
    return Index(
        name=app.title,
        version=__version__,
        docs=f"{base}/docs",
        first_requests=[
            f"curl {base}/api/v1/health",
            f"curl {base}/api/v1/chat/models",
            f"curl -X POST {base}/api/v1/chat -H 'Content-Type: application/json' -d '{_CHAT}'",
        ],
        routes=_routes(app),
    )


def _routes(app: FastAPI) -> list[Route]:
    return [
        Route(method=method.upper(), path=path, description=operation.get("description", ""))
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    ]
