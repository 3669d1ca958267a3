"""Owns what the server says of itself: what is here, whether it lives, and whether it can answer."""

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel

from app import __version__
from app.api.dependencies import ServicesDep
from app.api.docs import fails_with
from app.core.errors import ModelUnavailable
from app.models.schemas import HealthResponse

index_router = APIRouter(tags=["Health"])
health_router = APIRouter(prefix="/health", tags=["Health"])

_RETRY_AFTER_S = 2  # of a probe, while a model loads
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


@index_router.get("/")
async def index(request: Request) -> Index:
    """What is here, and what to try first."""
    base = str(request.base_url).rstrip("/")
    return Index(
        name=request.app.title,
        version=__version__,
        docs=f"{base}/docs",
        first_requests=[
            f"curl {base}/api/v1/health",
            f"curl {base}/api/v1/chat/models",
            f"curl -X POST {base}/api/v1/chat -H 'Content-Type: application/json' -d '{_CHAT}'",
        ],
        routes=_routes(request.app),
    )


@health_router.get("")
async def health(services: ServicesDep) -> HealthResponse:
    """The state of the server and of its model, with the progress of a load. Always 200."""
    return services.status.health()


@health_router.get("/live")
async def live() -> Alive:
    """Whether the server answers at all. A probe that fails means: start it again."""
    return Alive()


@health_router.get("/ready", responses=fails_with(503))
async def ready(services: ServicesDep) -> HealthResponse:
    """Whether a request would be answered now: 503 while a model loads, or its worker is dead or stuck."""
    state = services.status.health()
    if not services.status.is_ready():
        raise _not_ready(state)
    return state


def _not_ready(state: HealthResponse) -> ModelUnavailable:
    if state.status == "loading":
        return ModelUnavailable(f"{state.current_model} is loading.", retry_after=_RETRY_AFTER_S)
    why = state.model.error if state.model is not None else None
    return ModelUnavailable(
        why or f"{state.current_model} cannot serve.", hint="GET /api/v1/health tells more."
    )


def _routes(app: FastAPI) -> list[Route]:
    return [
        Route(method=method.upper(), path=path, description=operation.get("description", ""))
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    ]
