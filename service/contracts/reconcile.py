"""Store and queue brought back in line: whatever is pending in the store and no longer in Redis is enqueued again."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from service.contracts.errors import NotFound
from service.contracts.queue import JobQueue
from service.contracts.records import Records, now

log = logging.getLogger(__name__)
GRACE = timedelta(seconds=10)  # a gateway may be between storing a job and enqueueing it


class Reconciler:
    """Call `turn` as often as you like; every `seconds` one process of all does the work."""

    def __init__(self, records: Records, queue: JobQueue, seconds: float) -> None:
        self._records, self._queue, self._seconds = records, queue, seconds
        self._next = 0.0

    def turn(self) -> int:
        """Reconcile if it is time, and nobody else just did. Returns how many jobs were enqueued again."""
        if time.monotonic() < self._next:
            return 0
        self._next = time.monotonic() + self._seconds
        return self.reconcile() if self._queue.take_turn(self._seconds) else 0

    def reconcile(self) -> int:
        count = 0
        self._queue.rq.started_job_registry.cleanup()
        for tenant, job_id in list(self._records.pending()):
            if self._queue.carries(job_id):
                continue
            try:
                record = self._records.load(tenant, job_id)
            except NotFound:
                self._records.settle(tenant, job_id)
                continue
            except ValueError:
                log.exception("the record of job %s cannot be read; it is passed over", job_id)
                continue
            if record.ended:
                self._records.settle(tenant, job_id)
            elif now() - record.created_at > GRACE:
                self._queue.enqueue(tenant, job_id)
                count += 1
                log.warning("job %s was pending but not in the queue; enqueued again", job_id)
        return count
