"""The gateway, put together: the one place where its parts are made and joined."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service import problems
from service.auth import Doorkeeper
from service.contracts.catalog import load_models
from service.contracts.due import DueTimes
from service.contracts.outbox import Outbox
from service.contracts.queue import JobQueue, connect
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.contracts.store import open_store
from service.dependencies import House
from service.limits import Limiter
from service.metrics import GatewayMetrics
from service.ratelimit import RateLimitFields
from service.routes import catalog, immunize, jobs, operations, webhooks
from service.webhooks.dispatching import dispatching


def create_app(settings: Settings) -> FastAPI:
    """A gateway with these settings. Needs a Redis and a store, but starts without: /readyz says what is missing."""
    connection = connect(settings)
    queue = JobQueue(connection, settings)
    store = open_store(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with dispatching(app.state.house, jobs.job_view):
            yield
        connection.close()

    app = FastAPI(
        title="immunize",
        version=version("immunize"),
        summary="Immunizes images against AI editing",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        webhooks=webhooks.events,
    )
    metrics = GatewayMetrics(queue)
    app.state.metrics = metrics
    records = Records(store, Outbox(store, DueTimes(connection)))
    app.state.house = House(
        settings,
        load_models(settings.models_file),
        records,
        queue,
        metrics,
        Doorkeeper(settings),
        Limiter(connection),
    )
    problems.install(app)
    app.add_middleware(RateLimitFields)
    for part in (immunize, jobs, webhooks, catalog):
        app.include_router(part.router, responses=problems.documented(401, 403, 429))
    app.include_router(operations.router)
    return app
