"""What the service has promised: the ids that got a 202, and the cancels that got one. The proof holds it to them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

Fate = Literal["good", "broken", "deadly"]


@dataclass(frozen=True)
class Promise:
    """A job that got a 202. `epsilon` is what was asked for, in /255; `fate` what must become of it."""

    id: str
    epsilon: float
    fate: Fate = "good"


@dataclass
class Ledger:
    """Written to by several threads. `answers` counts statuses; `complaints` are answers that should never be."""

    promises: dict[str, Promise] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    canceled: dict[str, datetime] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    unanswered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def promised(self, promise: Promise) -> None:
        with self.lock:
            self.promises[promise.id] = promise

    def good(self) -> set[str]:
        """Ids of the jobs that are to finish."""
        with self.lock:
            return {job_id for job_id, promise in self.promises.items() if promise.fate == "good"}

    def ask(self, job_id: str) -> None:
        """A cancel is about to be asked for; from now on the job may be found canceled."""
        with self.lock:
            self.asked.add(job_id)

    def cancel_answered(self, job_id: str) -> None:
        with self.lock:
            self.canceled[job_id] = datetime.now(UTC)

    def answered(self, call: str, status: int) -> None:
        with self.lock:
            self.answers[f"{call} {status}"] += 1

    def lost(self, call: str, why: str) -> None:
        """No answer came: whether there is a job now, nobody knows."""
        with self.lock:
            self.unanswered += 1
            self.answers[f"{call} no answer ({why})"] += 1

    def complain(self, what: str) -> None:
        with self.lock:
            self.complaints.append(what)
