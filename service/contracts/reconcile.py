"""Store and queue brought back in line: what dead workers held, and what is pending in the store but not in Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from service.contracts.errors import NotFound
from service.contracts.queue import JobQueue
from service.contracts.records import Record, Records, now

log = logging.getLogger(__name__)
GRACE = timedelta(seconds=10)  # a gateway may be between storing a job and enqueueing it


class Reconciler:
    """Call `turn` as often as you like; every `seconds` one process of all compares store and queue, and every tenth of
    a lease one looks for what dead workers held. `recovered` is told how many jobs went back."""

    def __init__(
        self,
        records: Records,
        queue: JobQueue,
        *,
        seconds: float,
        lease: float,
        recovered: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._records, self._queue, self._seconds, self._lease = records, queue, seconds, lease
        self._recovered = recovered
        self._next = self._reap = 0.0

    def turn(self) -> int:
        """Reconcile if it is time, and nobody else just did. Returns how many jobs were put back or enqueued again."""
        count, time_now = 0, time.monotonic()
        if time_now >= self._reap:
            self._reap = time_now + self._lease / 10
            back = self._queue.reap()
            for job_id in back:
                log.warning("job %s was in the hands of a worker that died; it is queued again", job_id)
            count += len(back)
        if time_now >= self._next:
            self._next = time_now + self._seconds
            if self._queue.take_turn(self._seconds):
                count += self.reconcile()
        if count:
            self._recovered(count)
        return count

    def reconcile(self) -> int:
        """Enqueue what is pending and nowhere in Redis. A Redis that was just wiped is first given a lease's time, in
        which workers say again what they hold."""
        if not self._queue.settled(self._lease):
            return 0
        missing: list[Record] = []
        pending = list(self._records.pending())
        for (tenant, job_id), carried in zip(pending, self._queue.carried([each[1] for each in pending]), strict=True):
            if carried:
                continue
            try:
                record = self._records.load(tenant, job_id)
            except NotFound:
                self._records.clear(tenant, job_id)
                continue
            except ValueError:
                log.exception("the record of job %s cannot be read; it is passed over", job_id)
                continue
            if record.ended:
                self._records.settle(tenant, job_id)
            elif now() - record.created_at > GRACE:
                missing.append(record)
        # what was begun goes first, and else who came first: as if nothing had been lost
        count = 0
        for record in sorted(missing, key=lambda record: (record.status != "running", record.created_at)):
            if all(self._queue.carried([record.id])):  # a turn may take longer than the pause between two
                continue
            if self._records.asked_to_end(record):
                if record.attempts:
                    self._records.sweep(record)
                self._records.end(record, "canceled")
            else:
                self._queue.enqueue(record)
                log.warning("job %s was pending but not in the queue; enqueued again", record.id)
            count += 1
        return count
