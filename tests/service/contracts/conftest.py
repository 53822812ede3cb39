"""A queue and a store of a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from service.contracts.catalog import Priority, load_models
from service.contracts.fair import FairQueue
from service.contracts.plan import Plan, make_plan
from service.contracts.queue import JobQueue, connect
from service.contracts.records import Record, Records, now
from service.contracts.settings import Settings
from service.contracts.store import open_store


class Enqueue(Protocol):
    def __call__(self, tenant: str = "a", key: str = "k", priority: Priority = "interactive") -> str: ...


@pytest.fixture
def queue(settings: Settings) -> Iterator[JobQueue]:
    with connect(settings) as connection:
        yield JobQueue(connection, settings)


@pytest.fixture
def fair(queue: JobQueue, settings: Settings) -> FairQueue:
    """The worker's side of the same queue."""
    return FairQueue(queue.connection, settings.lease_seconds)


@pytest.fixture
def away(settings: Settings) -> Iterator[JobQueue]:
    """A queue whose Redis is not there."""
    gone = settings.model_copy(update={"redis_url": "unix:///nowhere/redis.sock"})
    with connect(gone) as connection:
        yield JobQueue(connection, gone)


@pytest.fixture
def records(settings: Settings) -> Records:
    return Records(open_store(settings))


@pytest.fixture(scope="session")
def plan() -> Plan:
    return make_plan({}, load_models())


@pytest.fixture
def create(records: Records, plan: Plan) -> Callable[[], Record]:
    """Stores a job and enqueues nothing."""
    return lambda: records.create("public", plan, b"image", key="k")


@pytest.fixture(scope="session")
def waiting(plan: Plan) -> Callable[..., Record]:
    """waiting(tenant, key, priority): the record of a job, stored nowhere."""

    def made(tenant: str = "a", key: str = "k", priority: Priority = "interactive") -> Record:
        job_id = uuid.uuid4().hex
        return Record(id=job_id, tenant=tenant, priority=priority, key=key, plan=plan, mask=False, created_at=now())

    return made


@pytest.fixture
def enqueue(queue: JobQueue, waiting: Callable[..., Record]) -> Enqueue:
    """enqueue(tenant, key, priority): a job that waits; its id."""

    def made(tenant: str = "a", key: str = "k", priority: Priority = "interactive") -> str:
        record = waiting(tenant, key, priority)
        queue.enqueue(record)
        return record.id

    return made
