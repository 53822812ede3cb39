"""A post office with a clock of the test's own, and a receiver that it may reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from service.contracts.catalog import load_models
from service.contracts.due import DueTimes
from service.contracts.outbox import Delivery, Outbox
from service.contracts.plan import make_plan
from service.contracts.queue import connect
from service.contracts.records import Record, Records
from service.contracts.schemas import Job, Links
from service.contracts.settings import Settings
from service.contracts.store import open_store
from service.webhooks.courier import Courier
from service.webhooks.dispatcher import Dispatcher
from service.webhooks.post import Poster
from service.webhooks.reach import Reach
from service.webhooks.signing import Signer, tenant_secret
from tests.service.webhooks.receiver import Receiver, receiver

SECRET = "the-operators-secret-that-is-long-enough"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"webhook_secret": SECRET, "webhook_networks": "127.0.0.0/8"}
    return Settings(**(settings.model_dump() | changed))


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def view(record: Record) -> Job:
    here = f"/jobs/{record.id}"
    return Job(
        id=record.id,
        status=record.status,
        priority=record.priority,
        method=record.plan.method,
        models=list(record.plan.models),
        created_at=record.created_at,
        ended_at=record.ended_at,
        links=Links(itself=here, image=f"{here}/image", cancel=f"{here}/cancel"),
        metadata=record.metadata,
    )


@dataclass
class Office:
    """What a gateway has for webhooks, more than once if asked; `later` moves the clock of all."""

    settings: Settings
    records: Records
    due: DueTimes
    offset: float = 0.0
    counted: Counter = field(default_factory=lambda: Counter("webhooks", "", ["outcome"], registry=CollectorRegistry()))

    @property
    def outbox(self) -> Outbox:
        return self.records.outbox

    def clock(self) -> float:
        return time.time() + self.offset

    def later(self, seconds: float) -> None:
        self.offset += seconds

    def dispatcher(self, poster: Poster | None = None, **options: Any) -> Dispatcher:
        poster = poster or Poster(Reach(self.settings.webhook_networks), total=5.0)
        signer = Signer(self.settings.webhook_secrets)
        courier = Courier(self.records, self.due, poster, signer, view, self.counted, clock=self.clock)
        return Dispatcher(self.outbox, self.due, courier, clock=self.clock, **options)

    def turn(self, dispatcher: Dispatcher | None = None) -> int:
        """Send what is due."""
        return asyncio.run((dispatcher or self.dispatcher()).turn())

    def job(self, url: str | None, tenant: str = "public", status: Any = "finished") -> Record:
        """One that has ended."""
        plan = make_plan({}, load_models())
        record = self.records.create(tenant, plan, b"image", key="", metadata={"album": 7}, webhook_url=url)
        if status is not None:
            self.records.end(record, status)
        return record

    def waiting(self, record: Record) -> Delivery:
        found = self.outbox.waiting(record.tenant, record.id)
        assert found is not None
        return found

    def last(self, record: Record) -> Delivery:
        """How it stood when it was over."""
        assert self.outbox.waiting(record.tenant, record.id) is None
        found = self.outbox.last(record.tenant, record.id)
        assert found is not None
        return found

    def outcomes(self) -> dict[str, int]:
        return {
            sample.labels["outcome"]: int(sample.value)
            for family in self.counted.collect()
            for sample in family.samples
            if sample.name.endswith("_total") and sample.value
        }


@pytest.fixture
def office(settings: Settings) -> Iterator[Office]:
    with connect(settings) as connection:
        due, store = DueTimes(connection), open_store(settings)
        yield Office(settings, Records(store, Outbox(store, due)), due)


@pytest.fixture
def secret(settings: Settings) -> Callable[[str], str]:
    """Of a tenant."""
    return lambda tenant="public": tenant_secret(settings.webhook_secrets[0], tenant)
