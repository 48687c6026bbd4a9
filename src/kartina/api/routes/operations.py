"""Operations: alive, ready, measured."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from kartina.api.dependencies import Operator, ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import Health

router = APIRouter(tags=["operations"])


@router.get("/healthz", openapi_extra={"security": []})
async def health() -> Health:
    """The process answers. Open to all."""
    return Health()


@router.get("/readyz", openapi_extra={"security": []}, responses=responses("unavailable"))
async def ready(of: ServicesDep) -> Health:
    """New work would be done: the database and the engine answer, and the service is not stopping. Open to all."""
    await of.health.check()
    return Health()


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"},
        **responses(),
    },
)
async def metrics(of: ServicesDep, who: Operator) -> Response:
    """What the service measures of itself, for Prometheus."""
    return Response(of.metrics.text(await of.health.snapshot()), headers={"Content-Type": CONTENT_TYPE_LATEST})
