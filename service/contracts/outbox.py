"""The outbox: webhooks that are to be sent, in the store, so that neither a wiped Redis nor a killed gateway loses one.

outbox/{tenant}/{id}            how the delivery stands, as long as it is not over
jobs/{tenant}/{id}/webhook      how it stood when it was over
endpoints/{tenant}/{sha256}     there where that address (its hash) answered 410 Gone: nothing is sent to it any more
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import BaseModel

from service.contracts.due import DueTimes
from service.contracts.errors import NotReady
from service.contracts.schemas import WebhookState
from service.contracts.store import Missing, Store

log = logging.getLogger(__name__)
BESIDE_RECORD = "webhook"  # the name of what lies beside a record


class Delivery(BaseModel):
    """How the delivery of one job's webhook stands."""

    state: WebhookState = "pending"
    attempts: int = 0
    next_at: datetime | None = None  # while it is pending
    last_status: int | None = None
    last_error: str | None = None
    replays: int = 0  # how often somebody asked for it once more


class Outbox:
    """What is to be sent. With `due`, gateways learn of it at once, else with their next sweep of the store."""

    def __init__(self, store: Store, due: DueTimes | None = None) -> None:
        self._store, self._due = store, due

    def put(self, tenant: str, job_id: str, delivery: Delivery) -> None:
        """Write how it stands. Nobody is told."""
        self._store.put(_waiting(tenant, job_id), delivery.model_dump_json().encode(), "application/json")

    def announce(self, tenant: str, job_id: str, when: datetime) -> None:
        """Tell the gateways when it is due. Where Redis is away, a sweep will."""
        if self._due is not None:
            try:
                self._due.set(tenant, job_id, when.timestamp())
            except NotReady:
                log.warning("the queue is away: the webhook of job %s waits for the next sweep", job_id)

    def replay(self, tenant: str, job_id: str) -> None:
        """Send it now, whatever became of it."""
        last, now = self.last(tenant, job_id) or Delivery(), datetime.now(UTC)
        self.put(tenant, job_id, Delivery(next_at=now, replays=last.replays + 1))
        self.announce(tenant, job_id, now)

    def waiting(self, tenant: str, job_id: str) -> Delivery | None:
        """How the delivery stands; None where none is on its way."""
        return self._load(_waiting(tenant, job_id))

    def last(self, tenant: str, job_id: str) -> Delivery | None:
        """How the delivery stands, or stood when it was over."""
        return self.waiting(tenant, job_id) or self._load(_over(tenant, job_id))

    def close(self, tenant: str, job_id: str, delivery: Delivery) -> None:
        """It is over: delivered, failed or disabled."""
        self._store.put(_over(tenant, job_id), delivery.model_dump_json().encode(), "application/json")
        self.drop(tenant, job_id)

    def drop(self, tenant: str, job_id: str) -> None:
        """Nothing is to be sent any more. What Redis knows is found out of date by whoever takes it."""
        self._store.delete(_waiting(tenant, job_id))

    def all(self) -> Iterator[tuple[str, str]]:
        """Tenant and job id of all that is to be sent."""
        for stored in self._store.keys("outbox/"):
            match stored.split("/"):
                case [_, tenant, job_id] if re.fullmatch(r"[0-9a-f]{32}", job_id):
                    yield tenant, job_id

    def gone(self, tenant: str, url: str) -> bool:
        """Whether the address once answered that it wants nothing any more."""
        try:
            self._store.get(_endpoint(tenant, url))
        except Missing:
            return False
        return True

    def disable(self, tenant: str, url: str) -> None:
        self._store.put(_endpoint(tenant, url), b"")

    def enable(self, tenant: str, url: str) -> None:
        self._store.delete(_endpoint(tenant, url))

    def _load(self, key: str) -> Delivery | None:
        try:
            return Delivery.model_validate_json(self._store.get(key))
        except Missing:
            return None
        except ValueError:
            log.warning("%s cannot be read; that delivery begins anew", key)
            return Delivery(next_at=datetime.now(UTC))


def _waiting(tenant: str, job_id: str) -> str:
    return f"outbox/{tenant}/{job_id}"


def _over(tenant: str, job_id: str) -> str:
    return f"jobs/{tenant}/{job_id}/{BESIDE_RECORD}"


def _endpoint(tenant: str, url: str) -> str:
    return f"endpoints/{tenant}/{hashlib.sha256(url.encode()).hexdigest()}"
