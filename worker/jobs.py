"""One job: fetch, immunize, store, record. Running it twice stores the same kind of result and changes nothing else."""

from __future__ import annotations

import hashlib
import logging
import time

from rq.timeouts import JobTimeoutException
from torch import Tensor

from service.contracts.errors import ImmunizeError, JobTimeout, NotFound, NotReady
from service.contracts.pictures import read_mask, read_picture
from service.contracts.queue import JobQueue
from service.contracts.records import Record, Records, StoredResult, key, now
from service.contracts.schemas import JobError, Progress
from service.contracts.settings import Settings
from worker.immunization import Delivery, deliver
from worker.metrics import WorkerMetrics
from worker.models.pool import Pool

log = logging.getLogger(__name__)
PROGRESS_SECONDS = 0.2


class Engine:
    """What turns job ids into results. Built once a process, with its models in the pool."""

    def __init__(
        self, records: Records, queue: JobQueue, pool: Pool, settings: Settings, metrics: WorkerMetrics
    ) -> None:
        self._records, self._queue, self._pool = records, queue, pool
        self._settings, self._metrics = settings, metrics

    def run(self, tenant: str, job_id: str) -> None:
        """Bring the job to its end. Raises only what may pass (store or queue away, a bug): RQ then tries again."""
        try:
            record = self._records.load(tenant, job_id)
        except NotFound:
            log.info("job %s is gone; nothing to do", job_id)
            return
        if record.ended:
            return
        if record.attempts >= self._settings.attempts:
            self._fail(
                record, JobError(type="worker-died", detail="every worker that began this job died; it was given up")
            )
            return
        record.status, record.started_at, record.attempts = "running", now(), record.attempts + 1
        self._records.save(record)
        try:
            self._finish(record, self._immunize(record))
        except NotReady:
            raise
        except JobTimeoutException:
            self._fail(
                record, _told(JobTimeout(f"the job ran longer than {self._settings.job_timeout} seconds; send less"))
            )
        except ImmunizeError as error:
            self._fail(record, _told(error))
        except Exception:  # a bug, or a driver's failure: worth another attempt, and the last one must end the job
            if record.attempts < self._settings.attempts:
                raise
            log.exception("job %s failed for good", job_id)
            self._fail(record, JobError(type="internal", detail="the job failed for an internal reason; it was logged"))

    def _immunize(self, record: Record) -> Delivery:
        method, plan = record.plan.method, record.plan
        self._metrics.seconds.labels(method, "queued").observe((now() - record.created_at).total_seconds())
        with self._metrics.stage(method, "fetch"):
            limit = self._settings.max_pixels
            picture = read_picture(self._input(record, "image"), max_pixels=limit)
            mask = read_mask(self._input(record, "mask"), picture.size, max_pixels=limit) if record.mask else None
            target = None
            if plan.target == "image":
                target = read_picture(self._input(record, "target"), max_pixels=limit, field="target_image").pixels
            models = self._pool.get_all(plan.models)
        with self._metrics.stage(method, "optimize"):
            delivery = deliver(picture, mask, target, plan, models, self._pool.device, self._reporter(record))
        self._metrics.batch.observe(1)
        self._metrics.evaluations.labels(method, ",".join(plan.models)).inc(delivery.report.gradient_evaluations)
        return delivery

    def _finish(self, record: Record, delivery: Delivery) -> None:
        digest = hashlib.sha256(delivery.data).hexdigest()
        place = key(record.tenant, record.id, digest)
        with self._metrics.stage(record.plan.method, "store"):
            self._records.store.put(place, delivery.data, delivery.content_type)
            record.result = StoredResult(
                key=place, sha256=digest, content_type=delivery.content_type, bytes=len(delivery.data)
            )
            record.report = delivery.report
            self._records.end(record, "finished")
        self._count(record)

    def _fail(self, record: Record, error: JobError) -> None:
        record.error = error
        self._records.end(record, "failed")
        self._count(record)

    def _count(self, record: Record) -> None:
        plan = record.plan
        self._metrics.jobs.labels(plan.method, ",".join(plan.models), record.status).inc()
        if record.ended_at is not None:
            total = (record.ended_at - record.created_at).total_seconds()
            self._metrics.seconds.labels(plan.method, "total").observe(total)

    def _input(self, record: Record, name: str) -> bytes:
        return self._records.store.get(key(record.tenant, record.id, name))

    def _reporter(self, record: Record) -> OnProgress:
        return OnProgress(self._queue, record.id)


class OnProgress:
    """Writes progress to Redis, a few times a second at most. A queue that is away does not stop the work."""

    def __init__(self, queue: JobQueue, job_id: str) -> None:
        self._queue, self._id, self._last = queue, job_id, 0.0

    def __call__(self, step: int, steps: int, losses: Tensor) -> None:
        if step < steps and time.monotonic() - self._last < PROGRESS_SECONDS:
            return
        self._last = time.monotonic()
        try:
            self._queue.set_progress(self._id, Progress(step=step, steps=steps, loss=float(losses[0])))
        except NotReady:
            log.warning("progress of job %s was not written: the queue is away", self._id)


def _told(error: ImmunizeError) -> JobError:
    return JobError(type=error.type, detail=error.detail)
