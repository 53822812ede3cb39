"""The RQ worker: one process a device, models loaded once, jobs taken in batches.

RQ's own workers run one job at a time: `Worker` forks for each, where CUDA cannot be used, and `SimpleWorker` says
nothing while a job runs. This one keeps RQ's registration, so that RQ's tools see it, and has a loop of its own. Beside
the optimisation, which never waits for Redis or the store, other threads fetch the next batch, store the last one, say
that the worker lives (`beat`), ask whether a job was canceled (`pulse`), and look after the queue (`reconcile`).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

import redis
from rq import SimpleWorker

from service.contracts.catalog import PRIORITIES
from service.contracts.errors import ImmunizeError, JobTimeout, NotReady, OutOfMemory
from service.contracts.queue import SERIALIZER, JobQueue
from service.contracts.reconcile import Reconciler
from service.contracts.schemas import JobError
from service.contracts.settings import Settings
from worker.gather import Gatherer, Hands
from worker.immunization import Immunized
from worker.jobs import Engine, Models, Work
from worker.metrics import WorkerMetrics
from worker.watch import Drained, Over, TimeUp, Watch

log = logging.getLogger(__name__)
Value = TypeVar("Value")
PULSE = 0.05  # seconds between two looks whether a job under way was canceled
PROGRESS = 0.2  # seconds between two reports of progress
LISTEN = 1.0  # seconds that an idle worker listens for the bell
STEP = 20.0  # seconds that a step may take longer than a batch's time before the process ends itself
ATTENTIVE = 8  # threads that fetch, and threads that store


class EngineWorker(SimpleWorker):
    """Runs jobs with the engine it was given, until SIGTERM or SIGINT."""

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        engine: Engine,
        pool: Models,
        metrics: WorkerMetrics,
        reconciler: Reconciler,
        settings: Settings,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            list(PRIORITIES),
            name=name,
            connection=queue.connection,
            serializer=SERIALIZER,
            worker_ttl=max(15, int(settings.lease_seconds)),
        )
        self._queue, self._engine, self._pool, self._metrics = queue, engine, pool, metrics
        self._reconciler, self._settings, self._on_beat = reconciler, settings, on_beat
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._stop_at = float("inf")
        self._hands, self._ready = Hands(), deque[list[Work]]()
        self._watch: Watch | None = None
        self._told_at = 0.0
        self._fetching: Future[list[list[Work]]] | None = None
        self._storing: list[Future[None]] = []
        self._fetchers = ThreadPoolExecutor(ATTENTIVE + 1, "fetch")
        self._storers = ThreadPoolExecutor(ATTENTIVE, "store")
        most = settings.batch_max or (1 if pool.device.type == "cpu" else 8)
        self._gatherer = Gatherer(
            name,
            queue,
            engine,
            self._hands,
            settings,
            self._fetchers,
            most=most,
            stopping=self._stopping,
            patient=self._patiently,
            release=self._release,
        )

    def work(self, burst: bool = False, **_: Any) -> bool:  # type: ignore[override]
        """Take jobs until told to stop; with `burst` until none waits. Returns whether all was left in good order."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._told_to_stop)
            signal.signal(signal.SIGINT, self._told_to_stop)
        threads = [
            threading.Thread(target=self._every, args=(seconds, each), name=each.__name__.strip("_"), daemon=True)
            for seconds, each in (
                (self._settings.lease_seconds / 5, self._beat),
                (PULSE, self._pulse),
                (self._settings.lease_seconds / 10, self._reconcile),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._stopping.is_set():
                batch = self._next(burst)
                if batch:
                    self._run(batch)
                elif burst and not self._hands.ids():
                    break
        finally:
            self._wind_up()
            self._ended.set()
            for thread in threads:
                thread.join(timeout=5)
            self._leave()
        return True

    # the loop

    def _next(self, burst: bool) -> list[Work]:
        """A batch, or nothing after a while."""
        if not self._ready:
            fetching, self._fetching = self._fetching, None
            try:
                self._ready.extend(fetching.result() if fetching else self._gatherer.gather())
                if not self._ready and not burst:
                    self._queue.listen(LISTEN)
                elif not self._ready:
                    wait(self._storing, timeout=LISTEN)
            except NotReady as error:
                log.warning("no jobs: %s", error.detail)
                self._stopping.wait(LISTEN)
        return self._ready.popleft() if self._ready else []

    def _ahead(self) -> None:
        """Fetch the next batch while this one is under way."""
        if not self._ready and self._fetching is None and not self._stopping.is_set():
            self._fetching = self._fetchers.submit(self._gatherer.gather)

    def _run(self, batch: Sequence[Work]) -> None:
        batch = [work for work in batch if not work.over.is_set()]
        if any(work.suspect for work in batch):
            wait(self._storing)  # so that, should this worker die too, nobody else is suspected
        try:
            list(self._storers.map(lambda work: work.begun or self._patiently(lambda: self._engine.begin(work)), batch))
        except NotReady:
            self._break_off(batch)
            return
        works = [work for work in batch if not work.over.is_set()]
        if not works:
            return
        self._watch = Watch(works, seconds=self._settings.job_timeout, drained=self._out_of_time, halfway=self._ahead)
        try:
            made = self._engine.optimize(works, self._watch.on_step)
        except Over:
            return
        except Drained:
            self._break_off(works)
        except TimeUp:
            limit = JobTimeout(f"the job ran longer than {self._settings.job_timeout} seconds; send less")
            self._later(works, lambda work: self._engine.fail(work, JobError(type=limit.type, detail=limit.detail)))
        except OutOfMemory as error:
            self._again_or(works, self._gatherer.halve(works) if len(works) > 1 else [], error)
        except ImmunizeError as error:
            self._again_or(works, _singly(works), error)
        except Exception as error:  # a bug, or a driver's failure
            log.exception("a batch of %d failed", len(works))
            self._again_or(works, _singly(works), error)
        else:
            self._store(works, made)
        finally:
            self._watch = None

    def _again_or(self, works: Sequence[Work], parts: Sequence[list[Work]], error: Exception) -> None:
        """Smaller batches of a batch that failed, so that what is wrong with one job is not the others' fault."""
        if parts:
            self._ready.extendleft(reversed(parts))
        elif isinstance(error, ImmunizeError):
            told = JobError(type=error.type, detail=error.detail)
            self._later(works, lambda work: self._engine.fail(work, told))
        else:
            for work in works:
                self._storers.submit(self._retry, work, repr(error))

    # storing

    def _store(self, works: Sequence[Work], made: Sequence[Sequence[Immunized]]) -> None:
        """In the background; at most one batch is stored while the next is under way."""
        wait(self._storing)
        self._storing = [self._storers.submit(self._deliver, *pair) for pair in zip(works, made, strict=True)]

    def _deliver(self, work: Work, made: Sequence[Immunized]) -> None:
        if work.over.is_set():
            return
        try:
            deliveries = self._engine.encode(work, made)
        except ImmunizeError as error:
            told = JobError(type=error.type, detail=error.detail)
            self._settle(work, lambda work: self._engine.fail(work, told))
        except Exception as error:
            log.exception("the result of job %s cannot be encoded", work.record.id)
            self._retry(work, repr(error))
        else:
            self._settle(work, lambda work: self._engine.finish(work, deliveries))

    def _later(self, works: Sequence[Work], end: Callable[[Work], None]) -> None:
        for work in works:
            if not work.over.is_set():
                self._storing.append(self._storers.submit(self._settle, work, end))

    def _settle(self, work: Work, end: Callable[[Work], None]) -> None:
        """Bring the job to its end, however long store and queue are away."""
        try:
            self._patiently(lambda: end(work))
        except NotReady:
            log.warning("the end of job %s could not be stored; it will be done again", work.record.id)
            self._give_back([work])
            return
        except Exception:
            log.exception("the end of job %s could not be stored", work.record.id)
            self._retry(work, "its end could not be stored")
            return
        self._release([work.record.id])

    def _retry(self, work: Work, why: str) -> None:
        with suppress(NotReady):
            if not self._patiently(lambda: self._engine.retry(work, why)):
                self._release([work.record.id])
                return
        self._give_back([work])

    # what it holds

    def _release(self, ids: Sequence[str]) -> None:
        """These have ended. Where the queue is away, the sign of life stops naming them, and reconciling finds them
        ended."""
        self._hands.drop(ids)
        with suppress(NotReady):
            self._patiently(lambda: self._queue.release(self.name, ids))

    def _give_back(self, works: Sequence[Work]) -> None:
        ids = [work.record.id for work in works]
        self._hands.drop(ids)
        with suppress(NotReady):
            self._patiently(lambda: self._queue.give_back(self.name, ids))

    def _break_off(self, works: Sequence[Work]) -> None:
        """Leave off in good order: another worker begins these again."""
        for work in works:
            with suppress(NotReady):
                self._patiently(lambda work=work: self._engine.unbegin(work))  # type: ignore[misc]
        self._give_back(works)

    # other threads

    def _beat(self) -> None:
        now = time.monotonic()
        watch = self._watch
        if (watch is not None and now > watch.until + STEP) or now > self._stop_at + STEP:
            log.error("a step does not end; this process ends itself, so that its jobs are taken up elsewhere")
            os._exit(70)
        self._metrics.beat()
        self._on_beat()
        lost = self._hands.told(lambda ids: self._queue.keep(self.name, ids))
        if lost:
            log.warning("%d jobs went to other workers while this one was cut off", len(lost))
            self._hands.drop(lost)
        if not self.connection.exists(self.key):
            self.register_birth()  # type: ignore[no-untyped-call]
        self.heartbeat()
        self.connection.hset(self.key, "state", "busy" if watch else "idle")
        self._queue.announce(self.name, self._pool.missing())

    def _pulse(self) -> None:
        open_ = [work for work in self._hands.works() if not work.over.is_set()]
        ends = self._queue.claimed([work.record.id for work in open_])
        for work, end in zip(open_, ends, strict=True):
            if end == "canceled":
                work.over.set()
                with suppress(RuntimeError):  # it is winding up: whoever has the job next ends it
                    self._storers.submit(self._settle, work, self._engine.cancel)
        watch, now = self._watch, time.monotonic()
        if watch is not None and now > self._told_at + PROGRESS:
            self._told_at = now
            progress = watch.progress()
            if progress:
                self._queue.set_progress(progress)

    def _reconcile(self) -> None:
        self._reconciler.turn()

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` again and again, whatever it raises: a worker whose threads end counts as dead."""
        pause = seconds
        while True:
            try:
                do()
                pause = seconds
            except (redis.RedisError, NotReady) as error:
                log.warning("%s: %s", threading.current_thread().name, error)
                pause = max(seconds, 1.0)
            except Exception:
                log.exception("%s failed", threading.current_thread().name)
                pause = max(seconds, 1.0)
            if self._ended.wait(pause):
                return

    # stopping

    def _told_to_stop(self, *_: object) -> None:
        """A first signal lets the batch end, a second breaks it off."""
        again = self._stopping.is_set()
        self._stop_at = min(self._stop_at, time.monotonic() + (0 if again else self._settings.drain_seconds))
        self._stopping.set()

    def _out_of_time(self) -> bool:
        return time.monotonic() >= self._stop_at

    def _patiently(self, do: Callable[[], Value]) -> Value:
        """Do it until store and queue are there for it. Raises NotReady once the worker must stop."""
        pause = 0.1
        while True:
            try:
                return do()
            except NotReady as error:
                if self._out_of_time():
                    raise
                log.warning("%s", error.detail)
                time.sleep(min(pause, max(0.0, self._stop_at - time.monotonic())))
                pause = min(2 * pause, 5.0)

    def _wind_up(self) -> None:
        """Store what is done, and give back what is not begun."""
        if self._fetching is not None:
            with suppress(Exception):
                self._ready.extend(self._fetching.result(timeout=self._settings.drain_seconds))
        for batch in self._ready:
            self._break_off(batch)
        self._storers.shutdown(wait=True)
        self._fetchers.shutdown(wait=True)

    def _leave(self) -> None:
        """Say goodbye, once nothing here says any more that the worker lives."""
        with suppress(NotReady, redis.RedisError):
            self._queue.give_back(self.name, self._hands.ids())
            self._queue.leave(self.name)
            self.register_death()  # type: ignore[no-untyped-call]


def _singly(works: Sequence[Work]) -> list[list[Work]]:
    return [[work] for work in works] if len(works) > 1 else []
