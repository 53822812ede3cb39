"""One delivery: looked up, signed, sent, and written down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter

from service.contracts.due import DueTimes
from service.contracts.errors import NotFound
from service.contracts.outbox import Delivery
from service.contracts.records import Record, Records
from service.contracts.schemas import Event, EventType, Job
from service.webhooks.post import Answer, Poster
from service.webhooks.schedule import judge
from service.webhooks.signing import Signer, message_id

log = logging.getLogger(__name__)
ENDING_SECONDS = 10.0  # after which a job is looked at again that is in the outbox and has not ended: it is just ending
GONE = "the address once answered 410 Gone; POST /jobs/{id}/webhook tries it again"
TYPES: dict[str, EventType] = {"finished": "job.finished", "failed": "job.failed", "canceled": "job.canceled"}


@dataclass(frozen=True)
class Letter:
    """What is sent, and how the delivery stood before."""

    record: Record
    url: str
    before: Delivery
    body: bytes


class Courier:
    """`view` makes of a record what GET /jobs/{id} shows; `counted` is told the outcome of each attempt."""

    def __init__(
        self,
        records: Records,
        due: DueTimes,
        poster: Poster,
        signer: Signer,
        view: Callable[[Record], Job],
        counted: Counter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records, self._outbox, self._due, self._poster = records, records.outbox, due, poster
        self._signer, self._view, self._counted, self._clock = signer, view, counted, clock

    async def deliver(self, tenant: str, job_id: str) -> None:
        """Send it if it is to be sent, and write down what came of it. NotReady where the store is away: then it is
        sent again once the lease is over."""
        letter = await asyncio.to_thread(self._letter, tenant, job_id)
        if letter is None:
            return
        sent_at = self._now()
        headers = self._signer.headers(tenant, message_id(job_id), sent_at, letter.body)
        answer = await self._poster.post(letter.url, headers, letter.body)
        await asyncio.to_thread(self._note, letter, answer)

    def _letter(self, tenant: str, job_id: str) -> Letter | None:
        """None where nothing is to be sent, or not now."""
        before = self._outbox.waiting(tenant, job_id)
        if before is None:
            self._due.forget(tenant, job_id)
            return None
        if before.next_at is not None and before.next_at > self._now():
            self._due.set(tenant, job_id, before.next_at.timestamp())
            return None
        try:
            record = self._records.load(tenant, job_id)
        except NotFound:
            record = None
        url = None if record is None else record.webhook_url
        if record is None or url is None:
            log.info("job %s is gone, and its webhook with it", job_id)
            self._outbox.drop(tenant, job_id)
            self._due.forget(tenant, job_id)
            return None
        if not record.ended:
            self._due.set(tenant, job_id, self._clock() + ENDING_SECONDS)
            return None
        if not before.replays and self._outbox.gone(tenant, url):
            stands = {"state": "disabled", "next_at": None, "last_error": GONE}
            self._outbox.close(tenant, job_id, before.model_copy(update=stands))
            self._due.forget(tenant, job_id)
            self._counted.labels("disabled").inc()
            return None
        assert record.ended_at is not None
        # the same bytes at each attempt: without the state of this delivery, which the view has otherwise
        job = self._view(record.model_copy(update={"webhook_url": None}))
        event = Event(type=TYPES[record.status], timestamp=record.ended_at, data=job)
        return Letter(record, url, before, event.model_dump_json(by_alias=True).encode())

    def _note(self, letter: Letter, answer: Answer) -> None:
        tenant, job_id = letter.record.tenant, letter.record.id
        after, outcome = judge(letter.before, answer, self._now())
        self._counted.labels(outcome).inc()
        log.info("webhook of job %s: %s (%s)", job_id, outcome, answer.status or answer.error)
        if after.state == "disabled":
            self._outbox.disable(tenant, letter.url)
        elif after.state == "delivered" and letter.before.replays:
            self._outbox.enable(tenant, letter.url)
        there = self._outbox.waiting(tenant, job_id)
        if there is None:  # the job was deleted meanwhile
            self._due.forget(tenant, job_id)
        elif there.replays != letter.before.replays:  # it was asked for anew meanwhile
            self._due.set(tenant, job_id, self._clock())
        elif after.next_at is not None:
            self._outbox.put(tenant, job_id, after)
            self._due.set(tenant, job_id, after.next_at.timestamp())
        else:
            self._outbox.close(tenant, job_id, after)
            self._due.forget(tenant, job_id)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
