"""A queue and a store of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from service.contracts.catalog import load_models
from service.contracts.plan import make_plan
from service.contracts.queue import JobQueue, connect
from service.contracts.records import Record, Records
from service.contracts.settings import Settings
from service.contracts.store import open_store


@pytest.fixture
def queue(settings: Settings) -> Iterator[JobQueue]:
    with connect(settings) as connection:
        yield JobQueue(connection, settings)


@pytest.fixture
def away(settings: Settings) -> Iterator[JobQueue]:
    """A queue whose Redis is not there."""
    gone = settings.model_copy(update={"redis_url": "unix:///nowhere/redis.sock"})
    with connect(gone) as connection:
        yield JobQueue(connection, gone)


@pytest.fixture
def records(settings: Settings) -> Records:
    return Records(open_store(settings))


@pytest.fixture
def create(records: Records) -> Callable[[], Record]:
    plan = make_plan({}, load_models())
    return lambda: records.create("public", plan, {}, b"image", None, None)
