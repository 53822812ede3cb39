"""A job's way through a worker: fetch, begin, optimise with others, store, record.

Each job ends on its own, whatever becomes of its batch. The record in the store is the truth, and every attempt writes
its number there first: an attempt that was overtaken by another (its worker had been cut off, say) delivers nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from service.contracts.errors import ImmunizeError, NotFound, NotReady
from service.contracts.queue import End, JobQueue
from service.contracts.records import Begun, Record, Records, StoredResult, now
from service.contracts.renditions import Rendition
from service.contracts.schemas import JobError, Status
from service.contracts.settings import Settings
from worker.core.pgd import OnStep
from worker.delivery import Delivery, encode
from worker.immunization import Immunized, Item, optimize_sizes
from worker.inputs import read_items
from worker.metrics import WorkerMetrics
from worker.results import finished, stored
from worker.signing import Signer

log = logging.getLogger(__name__)
DEATHS = 2  # of workers that had a job in their hands, after which it is given no other
INTERNAL = JobError(type="internal", detail="the job failed for an internal reason; it was logged")
POISON = JobError(type="poison", detail=f"{DEATHS} workers died with this job; it is kept away from the others")
GIVEN_UP = JobError(type="worker-died", detail="it was begun as often as jobs are, and never ended; it was given up")


class Models(Protocol):
    """Loaded models by name; `worker.models.pool.Pool` is one."""

    device: torch.device

    def get_all(self, names: Sequence[str]) -> list[Any]: ...

    def missing(self) -> Mapping[str, str]:
        """Names of the models that are not here, with how to get them."""


@dataclass(eq=False)
class Work:
    """A job in this worker's hands. Its items are the sizes that are made of its picture, the largest first."""

    record: Record
    items: tuple[Item, ...]
    renditions: tuple[Rendition, ...] = ()
    begun: bool = False
    over: threading.Event = field(default_factory=threading.Event)  # nothing is to be delivered any more
    lock: threading.RLock = field(default_factory=threading.RLock)  # one change of the record at a time

    @property
    def suspect(self) -> bool:
        """Whether a worker died with it: then it runs alone, so that no other job is suspected with it."""
        return self.record.deaths > 0


class Engine:
    """What is done with jobs. Built once a process, with its models in the pool. NotReady (the store or the queue is
    away) comes through from everything here: the caller tries again."""

    def __init__(
        self,
        name: str,
        records: Records,
        queue: JobQueue,
        pool: Models,
        settings: Settings,
        metrics: WorkerMetrics,
        signer: Signer | None = None,
    ) -> None:
        self._name, self._records, self._queue, self._pool = name, records, queue, pool
        self._settings, self._metrics, self._signer = settings, metrics, signer

    def fetch(self, tenant: str, job_id: str) -> Work | None:
        """The job, with its pictures decoded; None where nothing is to be done, or no more than to end it."""
        try:
            record = self._records.load(tenant, job_id)
        except NotFound:
            log.info("job %s is gone; nothing to do", job_id)
            return None
        except ValueError:
            log.exception("the record of job %s cannot be read; it is passed over", job_id)
            return None
        if record.ended:
            self._records.settle(tenant, job_id)
            return None
        if self._records.asked_to_end(record):
            self._end(record, "canceled")
            return None
        if record.status == "running":
            record.deaths += 1
        tired = record.attempts >= self._settings.attempts
        if record.deaths >= DEATHS or tired:
            self._end(record, "failed", GIVEN_UP if record.deaths < DEATHS else POISON)
            return None
        with self._metrics.stage(record.plan.method, "fetch"):
            try:
                return Work(record, *read_items(self._records, record, self._settings.max_pixels))
            except NotReady:
                raise
            except ImmunizeError as error:
                why = _told(error)
            except Exception:
                log.exception("job %s cannot be read", record.id)
                why = INTERNAL
        self._end(record, "failed", why)
        return None

    def begin(self, work: Work) -> None:
        """Write down that this worker begins the job, unless nothing of it is wanted any more."""
        with work.lock:
            if work.over.is_set():
                return
            began, old = now(), work.record
            record = old.model_copy(
                update={
                    "status": "running",
                    "started_at": began,
                    "attempts": old.attempts + 1,
                    "begun": [*old.begun, Begun(worker=self._name, at=began)],
                }
            )
            self._records.save(record)
            self._records.await_end(record)  # whoever was overtaken may just have taken the mark away
            work.record, work.begun = record, True
        waited = (began - record.created_at).total_seconds()
        self._metrics.seconds.labels(record.plan.method, "queued").observe(waited)

    def optimize(self, works: list[Work], on_step: OnStep) -> list[list[Immunized]]:
        """Together, and each for itself: what was made of each one's items."""
        plan = works[0].record.plan
        models = self._pool.get_all(plan.models)
        with self._metrics.stage(plan.method, "optimize"):
            made = optimize_sizes([work.items for work in works], models, self._pool.device, on_step)
        self._metrics.batch.observe(len(works))
        gradients = sum(each.gradient_evaluations for items in made for each in items)
        self._metrics.evaluations.labels(plan.method, ",".join(plan.models)).inc(gradients)
        return made

    def encode(self, work: Work, made: Sequence[Immunized]) -> list[Delivery]:
        models = self._pool.get_all(work.record.plan.models)
        return [encode(each, models, self._pool.device, self._signer) for each in made]

    def finish(self, work: Work, deliveries: Sequence[Delivery]) -> None:
        """Store results under their contents' hashes, and then the record that says so, unless the job has ended."""
        record = work.record
        results = [stored(record, delivery) for delivery in deliveries]
        with work.lock, self._metrics.stage(record.plan.method, "store"):
            if not self._ours(work):
                return
            for result, delivery in zip(results, deliveries, strict=True):
                self._records.store.put(result.key, delivery.data, delivery.content_type)
            end = self._decided(record, "finished")
            if not self._ours(work):  # all this may have taken long
                self._take_back(record, results)
            elif end == "canceled":
                for result in results:
                    self._records.store.delete(result.key)
                self._end(record, "canceled")
            else:
                self._end(finished(record, work.renditions, results, deliveries), "finished")

    def fail(self, work: Work, error: JobError) -> None:
        with work.lock:
            if self._ours(work):
                if self._decided(work.record, "failed") == "canceled":
                    self._end(work.record, "canceled")
                else:
                    self._end(work.record, "failed", error)

    def cancel(self, work: Work) -> None:
        with work.lock:
            if self._ours(work):
                self._end(work.record, "canceled")

    def unbegin(self, work: Work) -> None:
        """The attempt was broken off in good order, and does not count."""
        with work.lock:
            if work.begun and self._ours(work):
                record = work.record
                self._records.save(record.model_copy(update={"status": "queued", "attempts": record.attempts - 1}))
                work.begun = False

    def retry(self, work: Work, why: str) -> bool:
        """Whether the job may be tried again after a failure that is not its own for certain. If not, it has failed."""
        with work.lock:
            if work.record.attempts >= self._settings.attempts:
                log.error("job %s failed for good: %s", work.record.id, why)
                self.fail(work, INTERNAL)
                return False
            if self._ours(work):
                self._records.save(work.record.model_copy(update={"status": "queued"}))
        self._metrics.retries.inc()
        return True

    def _ours(self, work: Work) -> bool:
        """Whether the job is still this attempt's: it has not ended, and no other attempt began since."""
        try:
            there = self._records.load(work.record.tenant, work.record.id)
        except NotFound:
            return False
        if there.ended:
            self._records.settle(there.tenant, there.id)  # whoever ended it may not have come that far
        ours = not there.ended and there.attempts == work.record.attempts
        if not ours:
            log.warning("job %s has ended or went on elsewhere; what was made of it here is dropped", work.record.id)
        return ours

    def _take_back(self, record: Record, results: Sequence[StoredResult]) -> None:
        """Delete results that were stored in vain. While another attempt goes on, they are left to that one's end: it
        may store the very same."""
        kept = set[str]()
        with suppress(NotFound):
            there = self._records.load(record.tenant, record.id)
            if not there.ended:
                return
            kept = there.delivered
        for result in results:
            if result.key not in kept:
                self._records.store.delete(result.key)

    def _decided(self, record: Record, end: End) -> End:
        """How the job ends. What was canceled is not finished, even where Redis has forgotten or is away."""
        if self._records.asked_to_end(record):
            return "canceled"
        with suppress(NotReady):
            return self._queue.claim(record.id, end)
        return end

    def _end(self, record: Record, status: Status, error: JobError | None = None) -> None:
        record = record.model_copy(update={"error": error})
        if record.attempts > (1 if status == "finished" else 0):
            self._records.sweep(record)
        self._records.end(record, status)
        plan = record.plan
        self._metrics.jobs.labels(plan.method, ",".join(plan.models), status).inc()
        if record.ended_at is not None:
            total = (record.ended_at - record.created_at).total_seconds()
            self._metrics.seconds.labels(plan.method, "total").observe(total)


def _told(error: ImmunizeError) -> JobError:
    return JobError(type=error.type, detail=error.detail)
