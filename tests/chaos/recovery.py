"""How long the jobs of a killed worker waited until another began them: read from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Recovery:
    """A job that a killed worker had in its hands. seconds: until it was begun again, or ended without."""

    job: str
    killed: datetime
    seconds: float | None


def holder(record: Mapping[str, Any]) -> int | None:
    """The process that began the job last; workers are called host-pid-random."""
    begun = record.get("begun") or []
    return _pid(begun[-1]["worker"]) if begun else None


def recoveries(records: Iterable[Mapping[str, Any]], kills: Mapping[int, datetime]) -> list[Recovery]:
    """`kills`: when which process was killed."""
    found = []
    for record in records:
        begun = [(_pid(each["worker"]), datetime.fromisoformat(each["at"])) for each in record.get("begun", [])]
        ended = datetime.fromisoformat(record["ended_at"]) if record.get("ended_at") else None
        for place, (pid, at) in enumerate(begun):
            killed = kills.get(pid)
            later = [each for _, each in begun[place + 1 :]]
            if killed is None or at > killed or (ended is not None and ended <= killed):
                continue
            if later and later[0] <= killed:  # it had lost the job before
                continue
            again = min([*later, *([ended] if ended else [])], default=None)
            found.append(Recovery(record["id"], killed, (again - killed).total_seconds() if again else None))
    return found


def _pid(worker: str) -> int:
    return int(worker.rsplit("-", 2)[1])
