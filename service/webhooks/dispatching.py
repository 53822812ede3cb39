"""The sending of webhooks, put together for a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi.concurrency import run_in_threadpool

from service.contracts.due import DueTimes
from service.contracts.records import Record
from service.contracts.schemas import Job
from service.dependencies import House
from service.webhooks.courier import Courier
from service.webhooks.dispatcher import Dispatcher
from service.webhooks.post import Poster
from service.webhooks.reach import Reach
from service.webhooks.signing import Signer


@asynccontextmanager
async def dispatching(house: House, view: Callable[[House, Record], Job]) -> AsyncIterator[None]:
    """Webhooks go out as long as this lasts. Without a secret none does: what is in the outbox waits for one."""
    settings = house.settings
    if not settings.webhook_secrets:
        yield
        return
    due, poster = DueTimes(house.queue.connection), Poster(Reach(settings.webhook_networks))
    signer, counted = Signer(settings.webhook_secrets), house.metrics.webhooks
    courier = Courier(house.records, due, poster, signer, partial(view, house), counted)
    dispatcher = Dispatcher(house.records.outbox, due, courier)
    dispatcher.start()
    try:
        yield
    finally:
        await run_in_threadpool(dispatcher.stop)
        poster.close()
