"""The supervisor: it keeps so many workers going, and writes down how each of them ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.chaos.processes import Process

AGAIN_SECONDS = 1.0  # between two beginnings of one worker


@dataclass(eq=False)
class Worker:
    """A worker's process. `told`: the last signal that we sent it, and when."""

    process: Process
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    told: signal.Signals | None = None
    told_at: datetime | None = None

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Exit:
    """How a worker ended. `seconds`: from the signal that we sent it, if we sent one."""

    pid: int
    status: int
    began: datetime
    at: datetime
    told: signal.Signals | None
    seconds: float | None


class Supervisor:
    """`begin` makes a worker's process."""

    def __init__(self, begin: Callable[[], Process], count: int) -> None:
        self._begin, self._due = begin, [0.0] * count
        self.workers: list[Worker] = []
        self.exits: list[Exit] = []

    def tick(self) -> None:
        """Notice who has ended, and begin others in their places."""
        now = time.monotonic()
        for worker in self._gone():
            age = (datetime.now(UTC) - worker.began).total_seconds()
            self._due.append(now + max(0.0, AGAIN_SECONDS - age))
        for due in [due for due in self._due if due <= now]:
            self._due.remove(due)
            self.workers.append(Worker(self._begin()))

    def tell(self, worker: Worker, number: signal.Signals) -> None:
        worker.told, worker.told_at = number, datetime.now(UTC)
        worker.process.signal(number)

    def wind_up(self, seconds: float) -> list[int]:
        """Tell all to stop, as an operator would; the ids of those that run on after so many seconds."""
        for worker in self.workers:
            if worker.told is None:
                self.tell(worker, signal.SIGTERM)
        until = time.monotonic() + seconds
        while self.workers and time.monotonic() < until:
            self._gone()
            time.sleep(0.05)
        return [worker.pid for worker in self.workers]

    def kill(self) -> None:
        for worker in self.workers:
            with suppress(OSError):
                worker.process.kill()

    def _gone(self) -> list[Worker]:
        gone = []
        for worker in list(self.workers):
            status = worker.process.status()
            if status is None:
                continue
            now = datetime.now(UTC)
            seconds = None if worker.told_at is None else (now - worker.told_at).total_seconds()
            self.exits.append(Exit(worker.pid, status, worker.began, now, worker.told, seconds))
            self.workers.remove(worker)
            gone.append(worker)
        return gone
