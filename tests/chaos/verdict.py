"""What the processes' own story shows to be wrong: jobs begun again too late, workers that ended as they should not."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import datetime, timedelta

from tests.chaos.acts import Done
from tests.chaos.recovery import Recovery
from tests.chaos.supervisor import Exit

RECOVER_SECONDS = 60.0  # within which a killed worker's jobs are begun again; outages on the way are not counted
START_SECONDS = 15.0  # that a worker takes to begin, on a busy machine
DRAIN_SLACK = 5.0


def late(found: Sequence[Recovery], done: Sequence[Done]) -> list[str]:
    """Jobs of killed workers that were not begun again in time."""
    wrong = []
    for each in found:
        if each.seconds is None:
            wrong.append(f"{each.job}: its worker was killed, and nobody began it again")
            continue
        until = each.killed + timedelta(seconds=each.seconds)
        away = sum(
            max(0.0, (min(until, event.over) - max(each.killed, event.at)).total_seconds())
            for event in done
            if event.over is not None
        )
        if each.seconds - away > RECOVER_SECONDS:
            wrong.append(f"{each.job}: begun again only {each.seconds:.0f} s after its worker was killed")
    return wrong


def exits(ended: Sequence[Exit], done: Sequence[Done], *, drain: float, deadly: int) -> list[str]:
    """Workers that ended though nobody told them to, or not as they should. Each deadly job may kill two."""
    wrong, deaths = [], 0
    for each in ended:
        who = f"worker {each.pid}"
        if each.told != signal.SIGKILL and each.status == -signal.SIGKILL:
            deaths += 1  # a deadly job may also meet a worker that was told to stop
        elif each.told is None and not _began_in_outage(each.began, done):
            wrong.append(f"{who} ended by itself with status {each.status}")
        elif each.told == signal.SIGTERM and each.status != 0 and not _too_young(each):
            wrong.append(f"{who} was told to stop and ended with status {each.status}")
        elif each.told == signal.SIGTERM and (each.seconds or 0) > drain + DRAIN_SLACK:
            wrong.append(f"{who} was told to stop and took {each.seconds:.0f} s")
    if deaths > 2 * deadly:
        wrong.append(f"{deadly} deadly jobs killed {deaths} workers, and each may kill two")
    return wrong


def _too_young(each: Exit) -> bool:
    """Whether the signal met a Python that was still importing."""
    return each.status == -signal.SIGTERM and each.at - each.began < timedelta(seconds=START_SECONDS)


def _began_in_outage(began: datetime, done: Sequence[Done]) -> bool:
    """Whether Redis or the store was away while the worker started."""
    slack = timedelta(seconds=START_SECONDS)
    return any(event.over is not None and event.at - slack <= began <= event.over for event in done)
