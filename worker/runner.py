"""The RQ worker: one process a device, models loaded once, jobs run in this process.

RQ's `Worker` forks for every job, where CUDA cannot be used and models would be loaded again; its `SimpleWorker` does
not fork, but as shipped it says nothing while a job runs, so that a killed worker's job is missed only after the job's
whole timeout. Here a thread renews the lease every few seconds, and a lease is short.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import redis
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job

from service.contracts.errors import NotReady
from service.contracts.queue import SERIALIZER, JobQueue
from service.contracts.reconcile import Reconciler
from worker.jobs import Engine
from worker.metrics import WorkerMetrics
from worker.models.pool import Pool

log = logging.getLogger(__name__)
LEASE = 30  # seconds after its last sign of life that a worker counts as dead
BEAT = 5  # seconds between two signs of life


class EngineWorker(SimpleWorker):
    """Runs jobs with the engine it was given."""

    log_result_lifespan = False

    def __init__(
        self,
        queue: JobQueue,
        engine: Engine,
        pool: Pool,
        metrics: WorkerMetrics,
        reconciler: Reconciler,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            [queue.rq.name],
            connection=queue.connection,
            job_class=_bound(engine),
            serializer=SERIALIZER,
            worker_ttl=LEASE,
            maintenance_interval=LEASE,
        )
        self._queue, self._pool, self._metrics, self._reconciler = queue, pool, metrics, reconciler
        self._on_beat = on_beat
        self._current: tuple[Job, Execution] | None = None
        self._over = threading.Event()

    def work(self, *args: Any, **kwargs: Any) -> bool:
        beats = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        beats.start()
        try:
            return super().work(*args, **kwargs)
        finally:
            self._over.set()
            beats.join(timeout=BEAT)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:  # noqa: ARG002
        super().heartbeat(LEASE, pipeline=pipeline)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        return LEASE

    def prepare_execution(self, job: Job) -> Execution:
        execution = super().prepare_execution(job)
        self._current = (job, execution)
        return execution

    def cleanup_execution(self, job: Job, pipeline: Any, execution: Execution | None = None) -> None:
        self._current = None
        super().cleanup_execution(job, pipeline, execution)

    def _live(self) -> None:
        while not self._over.wait(BEAT if self._current else 1):
            try:
                current = self._current
                if current is None:
                    self.heartbeat()
                else:
                    self.maintain_heartbeats(*current)
                self._queue.announce(self.name, self._pool.missing())
                self._reconciler.turn()
            except (redis.RedisError, NotReady) as error:
                log.warning("no heartbeat: %s", error)
            except Exception:  # without this thread the worker counts as dead, whatever went wrong in it
                log.exception("a heartbeat failed")
            self._metrics.beat()
            self._on_beat()


def _bound(engine: Engine) -> type[Job]:
    """A job class whose function is this engine's."""

    class EngineJob(Job):
        @property
        def func(self) -> Any:
            return engine.run

    return EngineJob
