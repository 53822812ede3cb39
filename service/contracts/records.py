"""The record of a job in the store: the truth. Redis may be wiped and nothing that got a 202 is lost.

jobs/{tenant}/{id}/job.json     the record
jobs/{tenant}/{id}/image        what was sent; `mask` and `target` beside it
jobs/{tenant}/{id}/{sha256}     what is delivered, under its content's hash
pending/{tenant}/{id}           empty; there as long as the job has not ended
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from service.contracts.errors import NotFound, NotReady
from service.contracts.plan import Plan
from service.contracts.schemas import JobError, Report, Status
from service.contracts.store import Missing, Store

ENDED: frozenset[Status] = frozenset({"finished", "failed", "canceled"})
JOB_ID = re.compile(r"[0-9a-f]{32}")


class StoredResult(BaseModel):
    key: str
    sha256: str
    content_type: str
    bytes: int


class Record(BaseModel):
    id: str
    tenant: str
    status: Status = "queued"
    plan: Plan
    mask: bool
    metadata: dict[str, Any] = {}
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    error: JobError | None = None
    result: StoredResult | None = None
    report: Report | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Records:
    """Reads and writes records, and what lies beside them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(
        self, tenant: str, plan: Plan, metadata: dict[str, Any], image: bytes, mask: bytes | None, target: bytes | None
    ) -> Record:
        """Store a new job, inputs first and the pending mark last, so that whatever is pending is whole.

        Where the store fails on the way (NotReady), what was stored is taken back as far as it can be.
        """
        record = Record(
            id=uuid.uuid4().hex, tenant=tenant, plan=plan, mask=mask is not None, metadata=metadata, created_at=now()
        )
        try:
            for name, data in (("image", image), ("mask", mask), ("target", target)):
                if data is not None:
                    self.store.put(key(tenant, record.id, name), data)
            self.save(record)
            self.store.put(f"pending/{tenant}/{record.id}", b"")
        except NotReady:
            with suppress(NotReady):
                self.forget(record)
            raise
        return record

    def load(self, tenant: str, job_id: str) -> Record:
        """The record, or NotFound."""
        if JOB_ID.fullmatch(job_id):
            try:
                return Record.model_validate_json(self.store.get(key(tenant, job_id, "job.json")))
            except Missing:
                pass
        raise NotFound("there is no job of that id")

    def save(self, record: Record) -> None:
        self.store.put(key(record.tenant, record.id, "job.json"), record.model_dump_json().encode(), "application/json")

    def end(self, record: Record, status: Status) -> None:
        """Write that the job has ended, then take its pending mark away."""
        record.status, record.ended_at = status, now()
        self.save(record)
        self.settle(record.tenant, record.id)

    def settle(self, tenant: str, job_id: str) -> None:
        """Take the pending mark away."""
        self.store.delete(f"pending/{tenant}/{job_id}")

    def forget(self, record: Record) -> None:
        """Take back a job that was stored but never accepted."""
        self.settle(record.tenant, record.id)
        for stored in list(self.store.keys(key(record.tenant, record.id, ""))):
            self.store.delete(stored)

    def pending(self) -> Iterator[tuple[str, str]]:
        """Tenant and id of every job that has not ended."""
        for stored in self.store.keys("pending/"):
            match stored.split("/"):
                case [_, tenant, job_id] if JOB_ID.fullmatch(job_id):
                    yield tenant, job_id


def key(tenant: str, job_id: str, name: str) -> str:
    return f"jobs/{tenant}/{job_id}/{name}"


def now() -> datetime:
    return datetime.now(UTC)
