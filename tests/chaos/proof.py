"""The proof, from the store's files alone: what was promised has ended, once, and nothing else lies there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.chaos.delivered import finished
from tests.chaos.kept import Kept, read_jobs
from tests.chaos.ledger import Fate, Ledger, Promise

REASONS: Mapping[Fate, set[str]] = {  # why a job may fail; the good ones only because their workers were killed
    "good": {"poison", "worker-died"},
    "broken": {"internal", "worker-died", "poison"},
    "deadly": {"poison"},
}
CANCEL_BOUND = timedelta(seconds=2)  # a worker may have read that nobody canceled just before somebody did


def prove(root: Path, ledger: Ledger) -> list[str]:
    """Every violation, a line each; none where the service kept its word."""
    jobs = read_jobs(root)
    violations = list(_strays(root, ledger))
    for job_id, promise in ledger.promises.items():
        kept = jobs.get(job_id)
        if kept is None:
            violations.append(f"{job_id}: it got a 202 and has no record that can be read")
            continue
        violations += [f"{job_id}: {what}" for what in _job(kept, promise, ledger)]
    unknown = set(jobs) - set(ledger.promises)
    if len(unknown) > ledger.unanswered:
        violations += [f"{job_id}: nobody got a 202 for it" for job_id in sorted(unknown)]
    for job_id in unknown:
        if jobs[job_id].record.get("status") not in {"finished", "failed", "canceled"}:
            violations.append(f"{job_id}: it has not ended (its 202 was lost on the way)")
    return violations


def _strays(root: Path, ledger: Ledger) -> Iterator[str]:
    """Files outside of the jobs' folders, and folders of no job."""
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        match path.relative_to(root).parts:
            case ("jobs", _, job_id, _):
                if not (path.parent / "job.json").exists():
                    yield f"{job_id}: an orphan, {path.name}, without a record"
            case ("pending", _, job_id):
                yield f"{job_id}: its pending mark is left"
            case parts:
                yield f"an orphan: {'/'.join(parts)}"


def _job(kept: Kept, promise: Promise, ledger: Ledger) -> Iterator[str]:
    record, status = kept.record, kept.record.get("status")
    results = {name for name in kept.others if re.fullmatch(r"[0-9a-f]{64}", name)}
    for name in sorted(kept.others - results):
        yield f"an orphan lies beside its record: {name}"
    for name in ("image", *(["mask"] if record.get("mask") else [])):
        if not (kept.folder / name).is_file():
            yield f"its {name} is gone"
    if status == "finished":
        yield from finished(kept, promise, results)
    elif status in {"failed", "canceled"}:
        if results or record.get("result"):
            yield f"it is {status} and has a result"
        if status == "failed":
            yield from _failed(record, promise)
        elif promise.id not in ledger.asked:
            yield "it is canceled and nobody asked for it"
    else:
        yield f"it has not ended: it is {status}"
    if record.get("ended_at") is None and status in {"finished", "failed", "canceled"}:
        yield "it does not say when it ended"
    if promise.id in ledger.canceled:
        yield from _canceled(record, ledger.canceled[promise.id])
    elif (kept.folder / "cancel").exists() and promise.id not in ledger.asked:
        yield "it was asked to end, and nobody did"


def _failed(record: Mapping[str, Any], promise: Promise) -> Iterator[str]:
    error = record.get("error") or {}
    if not error.get("type") or not error.get("detail"):
        yield "it failed without a reason"
    elif error["type"] not in REASONS[promise.fate]:
        yield f"it ({promise.fate}) failed as {error['type']}: {error['detail']}"
    if error.get("type") == "poison" and record.get("deaths", 0) < 2:
        yield f"it is called poison after {record.get('deaths', 0)} deaths"


def _canceled(record: Mapping[str, Any], answered: datetime) -> Iterator[str]:
    if record.get("status") == "finished":
        yield "its cancel got a 202, and it finished"
    for begun in record.get("begun", []):
        late = datetime.fromisoformat(begun["at"]) - answered
        if late > CANCEL_BOUND:
            yield f"it was begun {late.total_seconds():.1f} s after its cancel got a 202"
