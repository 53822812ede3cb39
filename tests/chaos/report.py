"""What a run has shown: as a table for people, and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.chaos.acts import Done
from tests.chaos.kept import read_jobs
from tests.chaos.ledger import Ledger
from tests.chaos.recovery import Recovery


@dataclass(frozen=True)
class Run:
    """Everything that a run leaves behind. `memory`: Redis' used_memory before and after, in bytes."""

    seed: int
    began: datetime
    seconds: float
    done: Sequence[Done]
    recoveries: Sequence[Recovery]
    exits: Mapping[str, int]
    memory: tuple[int, int]
    traces: int
    ledger: Ledger
    violations: Sequence[str]


def summary(run: Run, root: Path) -> dict[str, Any]:
    """The figures, from the run and from the records in the store."""
    records = [kept.record for kept in read_jobs(root).values()]
    ends = Counter(_end(record) for record in records)
    stops = [
        (datetime.fromisoformat(record["ended_at"]) - run.ledger.canceled[record["id"]]).total_seconds()
        for record in records
        if record["id"] in run.ledger.canceled and record.get("ended_at")
    ]
    return {
        "seed": run.seed,
        "jobs": len(run.ledger.promises),
        "seconds": round(run.seconds, 1),
        "jobs_per_second": round(len(run.ledger.promises) / run.seconds, 2),
        "ends": dict(sorted(ends.items())),
        "attempts": dict(sorted(Counter(record.get("attempts", 0) for record in records).items())),
        "batches": dict(sorted(Counter((record.get("report") or {}).get("batch", 0) for record in records).items())),
        "recovery_seconds": spread(each.seconds for each in run.recoveries if each.seconds is not None),
        "recoveries": sorted(round(each.seconds, 2) for each in run.recoveries if each.seconds is not None),
        "cancel_seconds": spread(max(0.0, stop) for stop in stops),
        "answers": dict(sorted(run.ledger.answers.items())),
        "worker_exits": dict(run.exits),
        "tracebacks": run.traces,
        "redis_bytes": {"start": run.memory[0], "end": run.memory[1]},
        "events": [
            {
                "seconds": round((done.at - run.began).total_seconds(), 1),
                "share": round(done.share, 3),
                "what": done.what,
                "on": done.on,
                **({"lasted": round((done.over - done.at).total_seconds(), 1)} if done.over else {}),
            }
            for done in sorted(run.done, key=lambda done: done.at)
        ],
        "violations": list(run.violations),
    }


def shown(told: Mapping[str, Any]) -> str:
    """The summary for a terminal, violations last and a line each."""
    lines = [f"seed {told['seed']}"]
    for event in told["events"]:
        lasted = f" for {event['lasted']:g} s" if "lasted" in event else ""
        lines.append(
            f"  {event['seconds']:7.1f} s  {event['share']:5.1%}  {event['what']} {event['on']}{lasted}".rstrip()
        )
    lines.append(f"{told['jobs']} jobs in {told['seconds']:g} s: {told['jobs_per_second']:g} a second")
    for name in ("ends", "attempts", "batches", "recovery_seconds", "cancel_seconds", "answers", "worker_exits"):
        figures = ", ".join(f"{key}: {value}" for key, value in told[name].items())
        lines.append(f"{name.replace('_', ' ')}: {figures or 'none'}")
    memory = told["redis_bytes"]
    lines.append(
        f"redis memory: {memory['start'] / 2**20:.2f} MiB at the start, {memory['end'] / 2**20:.2f} at the end"
    )
    lines.append(f"tracebacks in the logs: {told['tracebacks']}")
    lines += [f"VIOLATION {violation}" for violation in told["violations"]] or ["no violations"]
    return "\n".join(lines)


def spread(values: Iterable[float]) -> dict[str, float]:
    """How many, least, middle, most."""
    found = sorted(values)
    if not found:
        return {}
    figures = {"min": found[0], "median": statistics.median(found), "max": found[-1]}
    return {"count": len(found)} | {name: round(value, 2) for name, value in figures.items()}


def _end(record: Mapping[str, Any]) -> str:
    status = str(record.get("status"))
    return f"{status} ({(record.get('error') or {}).get('type')})" if status == "failed" else status
