"""When what goes wrong: drawn from a seed, spread evenly over the run by the share of jobs that have ended.

By share and not by the clock: then the same seed does the same to a fast machine and to a slow one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

What = Literal["kill", "stop", "redis-restart", "redis-wipe", "store-outage", "cancel"]
WHATS: tuple[What, ...] = get_args(What)
FIRST, LAST = 0.02, 0.92  # before, nothing runs yet; after, too little is left for what happens to matter


@dataclass(frozen=True)
class Event:
    """`share`: of the jobs have ended when it happens. `kill`: a worker is killed in the midst of it too."""

    share: float
    what: What
    kill: bool = False


def make_schedule(seed: int, counts: Mapping[What, int]) -> list[Event]:
    """So many events of each kind, in order. Half of the outages have one of the kills within."""
    drawn = random.Random(f"schedule {seed}")
    events = []
    for what in WHATS:
        count = counts.get(what, 0)
        for place in range(count):
            share = (place + 0.5 + drawn.uniform(-0.4, 0.4)) / count
            events.append(Event(FIRST + share * (LAST - FIRST), what))
    kills = [event for event in events if event.what == "kill"]
    for place, event in enumerate(events):
        if event.what in {"redis-restart", "store-outage"} and len(kills) > 1 and drawn.random() < 0.5:
            kill = kills.pop(drawn.randrange(len(kills)))
            events[events.index(kill)] = replace(kill, share=-1.0)
            events[place] = replace(event, kill=True)
    return sorted((event for event in events if event.share >= 0), key=lambda event: event.share)
