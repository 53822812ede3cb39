"""The record of a job in the store: the truth. Redis may be wiped and nothing that got a 202 is lost.

jobs/{tenant}/{id}/job.json     the record
jobs/{tenant}/{id}/image        what was sent; `mask` and `target` beside it
jobs/{tenant}/{id}/{sha256}     what is delivered, under its content's hash
jobs/{tenant}/{id}/cancel       empty; there once the job was asked to end
jobs/{tenant}/{id}/webhook      how the delivery of its webhook went (outbox.py)
pending/{tenant}/{id}           since when; there as long as the job has not ended
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from service.contracts.catalog import Priority
from service.contracts.errors import NotFound, NotReady
from service.contracts.outbox import BESIDE_RECORD, Delivery, Outbox
from service.contracts.plan import Plan
from service.contracts.schemas import JobError, Report, Status
from service.contracts.store import Missing, Store

ENDED: frozenset[Status] = frozenset({"finished", "failed", "canceled"})
ABANDONED = timedelta(minutes=10)  # after which whoever was storing a job counts as dead
JOB_ID = re.compile(r"[0-9a-f]{32}")


class StoredResult(BaseModel):
    key: str
    sha256: str
    content_type: str
    bytes: int


class StoredRendition(BaseModel):
    name: str
    result: StoredResult
    report: Report


class Begun(BaseModel):
    """An attempt at a job."""

    worker: str
    at: datetime


class Record(BaseModel):
    id: str
    tenant: str
    status: Status = "queued"
    priority: Priority = "interactive"
    key: str = ""  # jobs of one key may be optimised together
    plan: Plan
    mask: bool
    metadata: dict[str, Any] = {}
    webhook_url: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    deaths: int = 0  # workers that died, or were given up, with this job in their hands
    begun: list[Begun] = []
    error: JobError | None = None
    result: StoredResult | None = None
    report: Report | None = None
    renditions: list[StoredRendition] = []  # where sizes were asked for; the largest of them is the result

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def delivered(self) -> set[str]:
        """The keys of its results."""
        first = [] if self.result is None else [self.result]
        return {result.key for result in (*first, *(each.result for each in self.renditions))}


class Records:
    """Reads and writes records, and what lies beside them."""

    def __init__(self, store: Store, outbox: Outbox | None = None) -> None:
        self.store = store
        self.outbox = outbox or Outbox(store)

    def create(
        self,
        tenant: str,
        plan: Plan,
        image: bytes,
        *,
        key: str,
        mask: bytes | None = None,
        target: bytes | None = None,
        priority: Priority = "interactive",
        metadata: dict[str, Any] | None = None,
        webhook_url: str | None = None,
    ) -> Record:
        """Store a new job: its pending mark, what was sent, and last the record.

        Where the store fails on the way (NotReady), what was stored is taken back; where it cannot be, because the
        store is gone or this process is, the mark lets it be found (`clear`).
        """
        record = Record(
            id=uuid.uuid4().hex,
            tenant=tenant,
            priority=priority,
            key=key,
            plan=plan,
            mask=mask is not None,
            metadata=metadata or {},
            webhook_url=webhook_url,
            created_at=now(),
        )
        try:
            self.await_end(record)
            for name, data in (("image", image), ("mask", mask), ("target", target)):
                if data is not None:
                    self.store.put(place(record, name), data)
            self.save(record)
        except NotReady:
            with suppress(NotReady):
                self.forget(tenant, record.id)
            raise
        return record

    def load(self, tenant: str, job_id: str) -> Record:
        """The record, or NotFound."""
        if JOB_ID.fullmatch(job_id):
            try:
                return Record.model_validate_json(self.store.get(f"jobs/{tenant}/{job_id}/job.json"))
            except Missing:
                pass
        raise NotFound("there is no job of that id")

    def save(self, record: Record) -> None:
        self.store.put(place(record, "job.json"), record.model_dump_json().encode(), "application/json")

    def await_end(self, record: Record) -> None:
        """Mark the job as one that has not ended."""
        self.store.put(f"pending/{record.tenant}/{record.id}", now().isoformat().encode())

    def end(self, record: Record, status: Status) -> None:
        """Write that the job has ended, then take its pending mark away. Its webhook is in the outbox before."""
        record.status, record.ended_at = status, now()
        if record.webhook_url is not None:
            self.outbox.put(record.tenant, record.id, Delivery(next_at=record.ended_at))
        self.save(record)
        self.settle(record.tenant, record.id)
        if record.webhook_url is not None:
            self.outbox.announce(record.tenant, record.id, record.ended_at)

    def settle(self, tenant: str, job_id: str) -> None:
        """Take the pending mark away."""
        self.store.delete(f"pending/{tenant}/{job_id}")

    def ask_to_end(self, record: Record) -> None:
        """Write down that the job is to be canceled, so that it is whatever becomes of Redis and of its worker."""
        self.store.put(place(record, "cancel"), b"")

    def asked_to_end(self, record: Record) -> bool:
        try:
            self.store.get(place(record, "cancel"))
        except Missing:
            return False
        return True

    def sweep(self, record: Record) -> None:
        """Delete what an attempt that was overtaken left beside the record."""
        kept = {place(record, name) for name in ("job.json", "image", "mask", "target", "cancel", BESIDE_RECORD)}
        kept |= record.delivered
        for stored in list(self.store.keys(place(record, ""))):
            if stored not in kept:
                self.store.delete(stored)

    def forget(self, tenant: str, job_id: str) -> None:
        """Take back a job that was stored but never accepted. The mark last: where this breaks off, it is found."""
        self.outbox.drop(tenant, job_id)
        for stored in list(self.store.keys(f"jobs/{tenant}/{job_id}/")):
            self.store.delete(stored)
        self.settle(tenant, job_id)

    def clear(self, tenant: str, job_id: str) -> None:
        """Of a pending mark without a record: forget it, unless somebody may still be storing the job."""
        try:
            since = datetime.fromisoformat(self.store.get(f"pending/{tenant}/{job_id}").decode())
        except (Missing, ValueError):
            since = None
        if since is None or now() - since > ABANDONED:
            self.forget(tenant, job_id)

    def pending(self) -> Iterator[tuple[str, str]]:
        """Tenant and id of every job that has not ended."""
        for stored in self.store.keys("pending/"):
            match stored.split("/"):
                case [_, tenant, job_id] if JOB_ID.fullmatch(job_id):
                    yield tenant, job_id


def place(record: Record, name: str) -> str:
    """The key of what lies beside a record."""
    return f"jobs/{record.tenant}/{record.id}/{name}"


def now() -> datetime:
    return datetime.now(UTC)
