"""One run: a deployment, a load, what goes wrong meanwhile, and the proof."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos import verdict
from tests.chaos.acts import Chaos
from tests.chaos.house import House
from tests.chaos.kept import read_jobs
from tests.chaos.ledger import Ledger
from tests.chaos.load import Load, Mix, make_asks
from tests.chaos.proof import prove
from tests.chaos.recovery import recoveries
from tests.chaos.report import Run
from tests.chaos.schedule import What, make_schedule

TICK = 0.05
TIDY_SECONDS = 20.0  # within which nothing half-written is left once all is done


@dataclass(frozen=True)
class Options:
    """What is run, and what goes wrong in it. Times in seconds."""

    mix: Mix
    workers: int = 3
    seed: int = 0
    counts: dict[What, int] = field(default_factory=dict)
    outage: float = 10.0
    redis_down: float = 2.0
    batch: int = 4
    lease: float = 15.0
    drain: float = 30.0
    attempts: int = 3
    reconcile: float = 5.0
    pause: float = 0.05
    bound: float = 1200.0
    window: int = 0  # jobs that are open at a time; 0: a quarter of all

    @property
    def room(self) -> int:
        return self.window or max(16, self.mix.jobs // 4)

    @property
    def settings(self) -> dict[str, object]:
        return {
            "BATCH_MAX": self.batch,
            "LEASE_SECONDS": self.lease,
            "DRAIN_SECONDS": self.drain,
            "ATTEMPTS": self.attempts,
            "RECONCILE_SECONDS": self.reconcile,
        }


def run(options: Options, folder: Path) -> Run:
    """Everything happens in `folder`, which stays as it is in the end. Raises where it cannot even begin."""
    ledger = Ledger()
    with House(folder, workers=options.workers, pause=options.pause, settings=options.settings) as house:
        memory, began, clock = house.redis.used_memory(), datetime.now(UTC), time.monotonic()
        chaos = Chaos(
            house,
            ledger,
            make_schedule(options.seed, options.counts),
            seed=options.seed,
            outage=options.outage,
            redis_down=options.redis_down,
        )
        ended = 0
        load = Load(
            house.address,
            make_asks(options.seed, options.mix),
            ledger,
            lambda: options.room - (len(ledger.promises) - ended),
        )
        try:
            late = True
            while time.monotonic() < clock + options.bound:
                house.supervise()
                ended = _ended(house, ledger, ended)
                chaos.tick(ended / options.mix.jobs)
                if load.over and chaos.over and ended == len(ledger.promises):
                    late = False
                    break
                time.sleep(TICK)
            seconds = time.monotonic() - clock
        finally:
            load.stop()
            chaos.stop()
            house.store.come_back()
        if not late:
            _tidied(house)
        after = house.redis.used_memory() if house.redis.ready() else 0
        unending = house.supervisor.wind_up(options.drain + 30)
        traces = house.traces()
    kills = {int(done.on): done.at for done in chaos.done if done.what == "kill"}
    found = recoveries((kept.record for kept in read_jobs(house.store.root).values()), kills)
    violations = [
        *([f"not over after {options.bound:g} s: {ended} of {options.mix.jobs} jobs ended"] if late else []),
        *prove(house.store.root, ledger),
        *ledger.complaints,
        *house.complaints,
        *(f"worker {pid} does not end when it is told to" for pid in unending),
        *_stray(house.store.strays),
        *verdict.late(found, chaos.done),
        *verdict.exits(house.supervisor.exits, chaos.done, drain=options.drain, deadly=options.mix.deadly),
    ]
    exits = Counter(
        f"{each.status} after {each.told.name}" if each.told else f"{each.status}" for each in house.supervisor.exits
    )
    return Run(options.seed, began, seconds, chaos.done, found, exits, (memory, after), traces, ledger, violations)


def _ended(house: House, ledger: Ledger, before: int) -> int:
    """How many of the promised have ended; the last figure while the store is away."""
    promised = set(ledger.promises)  # first: what is promised while we look is then pending or not counted
    try:
        return len(promised - house.store.pending())
    except FileNotFoundError:
        return before


def _stray(strays: list[str]) -> list[str]:
    what = f"{len(strays)} files, such as {strays[0]}" if strays else ""
    return [f"a new store was made while the old one was away: {what}"] if strays else []


def _tidied(house: House) -> None:
    """Give the service time to clear away what was half-written when a process was killed.

    It may only clear away what is old; so it is made old, now that nobody writes any more.
    """
    until = time.monotonic() + TIDY_SECONDS
    staging = house.store.root / ".staging"
    while time.monotonic() < until and (any(staging.iterdir()) or house.store.pending()):
        for left in staging.iterdir():
            with suppress(FileNotFoundError):
                os.utime(left, (0, 0))
        for mark in (house.store.root / "pending").glob("*/*"):
            if not (house.store.root / "jobs" / mark.parent.name / mark.name / "job.json").exists():
                mark.write_text("1970-01-01T00:00:00+00:00")
        house.supervise()
        time.sleep(TICK)
