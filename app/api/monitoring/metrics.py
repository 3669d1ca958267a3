"""The route from which Prometheus reads the figures of the server."""

from fastapi import APIRouter, Response

from app.api.dependencies import ServicesDep
from app.api.paths import METRICS_PATH
from app.models.metrics.server_metrics import MEDIA_TYPE

router = APIRouter(tags=["Health"])


@router.get(METRICS_PATH, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: ServicesDep) -> Response:
    """Returns the figures of the server for Prometheus: requests, tokens, times, models, memory."""
    return Response(await services.metrics.report(), media_type=MEDIA_TYPE)
