"""Doing what the schedule says, each thing when its share of the jobs has ended, and writing down when it was done."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2

from tests.chaos.answers import patiently
from tests.chaos.house import House
from tests.chaos.kept import read_jobs
from tests.chaos.ledger import Ledger
from tests.chaos.recovery import holder
from tests.chaos.schedule import Event, What
from tests.chaos.supervisor import Worker

PATIENCE = 5.0  # seconds that a kill waits for a worker with a job in its hands


@dataclass(frozen=True)
class Done:
    """Something that was done: to which process or job, when, and when it was over."""

    what: What
    at: datetime
    share: float
    on: str = ""
    over: datetime | None = None


class Chaos:
    """Call `tick` again and again. Outages end by themselves, after `outage` seconds; no two overlap."""

    def __init__(
        self, house: House, ledger: Ledger, events: list[Event], *, seed: int, outage: float, redis_down: float
    ) -> None:
        self._house, self._ledger, self._left = house, ledger, list(events)
        self._drawn = random.Random(f"acts {seed}")
        self._seconds: dict[What, float] = {"store-outage": outage, "redis-restart": redis_down}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._waiting_since: float | None = None
        self._stopped = threading.Event()
        self._canceler = ThreadPoolExecutor(1, thread_name_prefix="cancel")
        self._cancels: list[Future[None]] = []
        self._share = 0.0
        self.down: set[What] = set()
        self.done: list[Done] = []

    @property
    def over(self) -> bool:
        return not self._left and not self._timers and all(cancel.done() for cancel in self._cancels)

    def stop(self) -> None:
        self._stopped.set()
        self._canceler.shutdown(wait=True)

    def tick(self, share: float) -> None:
        """Do what is due. `share`: of all jobs, how many have ended."""
        self._share = share
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(timer)
            timer[1]()
        while self._left and self._left[0].share <= share and not self.down:
            if not self._act(self._left[0]):
                break
            self._left.pop(0)

    def _act(self, event: Event) -> bool:
        """False where it has to wait a little."""
        match event.what:
            case "kill":
                return self._signal("kill", signal.SIGKILL)
            case "stop":
                return self._signal("stop", signal.SIGTERM)
            case "redis-wipe":
                self._house.redis.wipe()
                self._note("redis-wipe")
            case "cancel":
                self._cancels.append(self._canceler.submit(self._cancel))
            case "redis-restart":
                self._outage(event, self._house.redis.kill, self._house.redis.start, self._house.redis.ready)
            case "store-outage":
                self._outage(event, self._house.store.go_away, self._house.store.come_back, lambda: True)
        return True

    def _outage(
        self, event: Event, begin: Callable[[], None], end: Callable[[], None], back: Callable[[], bool]
    ) -> None:
        began, seconds = datetime.now(UTC), self._seconds[event.what]
        busy = self._busy()  # the store cannot be asked once it is away
        begin()
        self.down.add(event.what)

        def over() -> None:
            end()
            wait()

        def wait() -> None:
            if not back():
                self._timers.append((time.monotonic() + 0.05, wait))
                return
            self.down.discard(event.what)
            self.done.append(Done(event.what, began, self._share, over=datetime.now(UTC)))

        if event.kill:
            self._timers.append((time.monotonic() + seconds / 2, lambda: self._kill_one_of(busy)))
        self._timers.append((time.monotonic() + seconds, over))

    def _kill_one_of(self, busy: list[Worker]) -> None:
        there = [worker for worker in busy if worker in self._house.supervisor.workers and worker.told is None]
        if there or self._house.supervisor.workers:
            self._tell("kill", self._drawn.choice(there or self._house.supervisor.workers), signal.SIGKILL)

    def _signal(self, what: What, number: signal.Signals) -> bool:
        """Pick a worker in the midst of a job; one without only after some patience."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        busy = self._busy()
        idle = [worker for worker in self._house.supervisor.workers if worker.told is None]
        if not busy and (now - self._waiting_since < PATIENCE or not idle):
            return False
        self._waiting_since = None
        self._tell(what, self._drawn.choice(busy or idle), number)
        return True

    def _tell(self, what: What, worker: Worker, number: signal.Signals) -> None:
        self._note(what, str(worker.pid))
        self._house.supervisor.tell(worker, number)

    def _busy(self) -> list[Worker]:
        """The workers that have begun a job which has not ended."""
        jobs = read_jobs(self._house.store.root, self._pending())
        pids = {holder(kept.record) for kept in jobs.values() if kept.record["status"] == "running"}
        return [worker for worker in self._house.supervisor.workers if worker.pid in pids and worker.told is None]

    def _pending(self) -> set[str]:
        try:
            return self._house.store.pending()
        except FileNotFoundError:
            return set()

    def _cancel(self) -> None:
        """Cancel a random good job that has not ended; another, if that one ends first."""
        with httpx2.Client(base_url=self._house.address, timeout=30) as http:
            while not self._stopped.is_set():
                open_ = sorted(self._pending() & self._ledger.good() - self._ledger.asked)
                if not open_:
                    if self._stopped.wait(0.1) or self._share >= 1:
                        return
                    continue
                if self._cancel_one(http, self._drawn.choice(open_)) == 202:
                    return

    def _cancel_one(self, http: httpx2.Client, job_id: str) -> int:
        def taken(_: httpx2.Response) -> None:
            self._ledger.cancel_answered(job_id)
            self._note("cancel", job_id)

        self._ledger.ask(job_id)
        call = f"/jobs/{job_id}/cancel"
        return patiently(lambda: http.post(call), "cancel", self._ledger, self._stopped, taken)

    def _note(self, what: What, on: str = "") -> None:
        self.done.append(Done(what, datetime.now(UTC), self._share, on))
