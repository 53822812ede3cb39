"""Reconciling: whatever got a 202 is brought to its end, whatever became of Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.contracts.errors import NotReady
from service.contracts.queue import JobQueue
from service.contracts.reconcile import GRACE, Reconciler
from service.contracts.records import Record, Records, now

Create = Callable[[], Record]


@pytest.fixture
def reconciler(records: Records, queue: JobQueue) -> Reconciler:
    return Reconciler(records, queue, 60)


def aged(records: Records, record: Record) -> Record:
    """As if it had been created before the time that a gateway is given to enqueue."""
    record.created_at = now() - 2 * GRACE
    records.save(record)
    return record


def test_a_wiped_redis_loses_nothing(reconciler: Reconciler, records: Records, queue: JobQueue, create: Create) -> None:
    jobs = [aged(records, create()) for _ in range(3)]
    for job in jobs:
        queue.enqueue("public", job.id)
    assert reconciler.reconcile() == 0, "all are where they should be"
    queue.connection.flushall()
    assert reconciler.reconcile() == 3
    assert all(queue.carries(job.id) for job in jobs)
    assert reconciler.reconcile() == 0


def test_a_job_that_was_just_stored_is_left_to_its_gateway(
    reconciler: Reconciler, records: Records, queue: JobQueue, create: Create
) -> None:
    record = create()
    assert reconciler.reconcile() == 0
    aged(records, record)
    assert reconciler.reconcile() == 1


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_begun_job_that_nobody_has_is_begun_again(
    status: str, reconciler: Reconciler, records: Records, queue: JobQueue, create: Create
) -> None:
    record = aged(records, create())
    record.status, record.attempts = status, 1  # type: ignore[assignment]
    records.save(record)
    assert reconciler.reconcile() == 1
    assert queue.position(record.id) == 0
    assert records.load("public", record.id).attempts == 1


@pytest.mark.parametrize("status", ["finished", "failed", "canceled"])
def test_an_ended_job_is_settled(
    status: str, reconciler: Reconciler, records: Records, queue: JobQueue, create: Create
) -> None:
    record = aged(records, create())
    record.status = status  # type: ignore[assignment]
    records.save(record)  # and the process died before it took the mark away
    assert reconciler.reconcile() == 0
    assert list(records.pending()) == []
    assert queue.depth() == 0


def test_a_mark_without_a_record_is_settled(reconciler: Reconciler, records: Records, queue: JobQueue) -> None:
    records.store.put(f"pending/public/{'0' * 32}", b"")
    assert reconciler.reconcile() == 0
    assert list(records.pending()) == []
    assert queue.depth() == 0


def test_what_is_no_mark_is_passed_over(
    reconciler: Reconciler, records: Records, queue: JobQueue, create: Create
) -> None:
    record = aged(records, create())
    records.store.put("pending/a-file-somebody-left", b"")
    records.store.put("pending/public/deeper/down", b"")
    records.store.put("pending/public/.DS_Store", b"")
    records.store.put(f"pending/public/{'0' * 32}", b"")
    records.store.put(f"jobs/public/{'0' * 32}/job.json", b"of another version")
    assert reconciler.reconcile() == 1
    assert queue.position(record.id) == 0


def test_one_process_of_all_does_the_work_once_in_a_while(records: Records, queue: JobQueue, create: Create) -> None:
    aged(records, create())
    first, second = (Reconciler(records, queue, 60) for _ in range(2))
    assert [first.turn(), first.turn(), second.turn()] == [1, 0, 0]


def test_without_redis_nothing_is_settled(records: Records, away: JobQueue, create: Create) -> None:
    record = aged(records, create())
    with pytest.raises(NotReady):
        Reconciler(records, away, 60).turn()
    assert list(records.pending()) == [("public", record.id)]
