"""The route for people who watch the server: models, open requests, the last failures."""

from fastapi import APIRouter

from app.api.dependencies import OwnerDep, ServicesDep
from app.api.paths import NATIVE_PREFIX
from app.models.schemas import ActivityResponse

router = APIRouter(prefix=NATIVE_PREFIX, tags=["Health"])


@router.get("/activity")
async def activity(services: ServicesDep, owner: OwnerDep) -> ActivityResponse:
    """Returns the models with their load, and the caller's own open requests and last failures."""
    return services.metrics.activity(owner)
