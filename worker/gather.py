"""Where a worker's batches come from: jobs of one key are taken together, fetched side by side, and grouped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress

from service.contracts.catalog import PRIORITIES
from service.contracts.errors import NotReady
from service.contracts.fair import Taken
from service.contracts.queue import JobQueue
from service.contracts.settings import Settings
from worker.jobs import Engine, Work

COMPANY_SECONDS = 0.01  # between two looks for company


class Hands:
    """The ids of the jobs that this worker holds."""

    def __init__(self) -> None:
        self._lock, self._works = threading.Lock(), dict[str, Work | None]()

    def add(self, ids: Sequence[str]) -> None:
        with self._lock:
            self._works |= dict.fromkeys(ids)

    def put(self, work: Work) -> None:
        with self._lock:
            self._works[work.record.id] = work

    def drop(self, ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in ids:
                work = self._works.pop(job_id, None)
                if work is not None:
                    work.over.set()

    def ids(self) -> list[str]:
        with self._lock:
            return list(self._works)

    def told(self, tell: Callable[[list[str]], list[str]]) -> list[str]:
        """What `tell` answers to the ids. Nothing is dropped meanwhile: what was given back is not claimed again."""
        with self._lock:
            return tell(list(self._works))

    def works(self) -> list[Work]:
        with self._lock:
            return [work for work in self._works.values() if work is not None]


class Gatherer:
    """Takes jobs and makes batches of them. `patient(f)` calls f until the store and the queue are there."""

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        engine: Engine,
        hands: Hands,
        settings: Settings,
        fetchers: Executor,
        *,
        most: int,
        stopping: threading.Event,
        patient: Callable[[Callable[[], Work | None]], Work | None],
        release: Callable[[Sequence[str]], None],
    ) -> None:
        self._name, self._queue, self._engine, self._hands, self._settings = name, queue, engine, hands, settings
        self._fetchers, self._most, self._stopping = fetchers, most, stopping
        self._patient, self._release = patient, release
        self._limits: dict[str, int] = {}
        self._due, self._unsure = 0.0, False

    def gather(self) -> list[list[Work]]:
        """The next batches: mostly one, or none. Raises NotReady where the queue is away."""
        if self._unsure:
            self._queue.strays(self._name, self._hands.ids())
            self._unsure = False
        taken = self._take(self._most, self._order())
        jobs = list(taken.jobs)
        until = time.monotonic() + self._settings.batch_wait_ms / 1000
        with suppress(NotReady):  # then without more company
            while jobs and len(jobs) < self._most and time.monotonic() < until and not self._stopping.is_set():
                time.sleep(COMPANY_SECONDS)
                jobs += self._take(self._most - len(jobs), (taken.queue,), taken.key).jobs
        works = self._fetched(jobs)
        alone = [[work] for work in works if work.suspect]
        return [*self._chunks([work for work in works if not work.suspect]), *alone]

    def halve(self, works: Sequence[Work]) -> list[list[Work]]:
        """A batch that did not fit into memory, in two; no later one of its kind will be larger."""
        half = len(works) // 2
        self._limits[works[0].record.key] = half
        return [list(works[:half]), list(works[half:])]

    def _take(self, most: int, queues: Sequence[str], key: str = "") -> Taken:
        try:
            taken = self._queue.take(self._name, most, queues, key)
        except NotReady:
            self._unsure = True  # it may have been done all the same
            raise
        self._hands.add([job_id for _, job_id in taken.jobs])
        return taken

    def _order(self) -> Sequence[str]:
        """The queues as they are looked at: now and then the last comes first, so that none starves."""
        self._due += self._settings.bulk_share
        if self._due < 1:
            return PRIORITIES
        self._due -= 1
        return PRIORITIES[::-1]

    def _fetched(self, jobs: Sequence[tuple[str, str]]) -> list[Work]:
        found = self._fetchers.map(lambda job: self._patient(lambda: self._engine.fetch(*job)), jobs)
        works = []
        for (_, job_id), work in zip(jobs, found, strict=True):
            if work is None:
                self._release([job_id])
            else:
                self._hands.put(work)
                works.append(work)
        return works

    def _chunks(self, works: Sequence[Work]) -> list[list[Work]]:
        if not works:
            return []
        width, height = works[0].items[0].picture.size
        fitting = max(1, self._settings.batch_pixels // (width * height))
        size = min(self._most, fitting, self._limits.get(works[0].record.key, self._most))
        return [list(works[first : first + size]) for first in range(0, len(works), size)]
