"""For those who run it: alive, ready, metrics."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.contracts.store import Missing
from service.dependencies import TheHouse, Watching
from service.problems import documented

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="get_health", summary="The process is alive")
def get_health() -> dict[str, str]:
    return {"status": "alive"}


@router.get(
    "/readyz", operation_id="get_ready", summary="Redis and the store can be reached", responses=documented(503)
)
def get_ready(house: TheHouse) -> dict[str, str]:
    house.queue.ping()
    with suppress(Missing):
        house.records.store.get("ready")  # never there: that the store can say so is the answer
    return {"status": "ready"}


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Prometheus text",
    response_class=Response,
    responses=documented(401, 403),
    dependencies=[Watching],
)
def get_metrics(house: TheHouse) -> Response:
    """For whoever is on this machine, or has a key with the scope `metrics`."""
    return Response(house.metrics.text(), media_type=CONTENT_TYPE_LATEST)
