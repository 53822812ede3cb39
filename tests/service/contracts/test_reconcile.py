"""Reconciling: whatever got a 202 is brought to its end, whatever became of Redis."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from service.contracts.errors import NotReady
from service.contracts.plan import Plan
from service.contracts.queue import JobQueue
from service.contracts.reconcile import GRACE, Reconciler
from service.contracts.records import ABANDONED, Record, Records, now, place
from tests.helpers import wait_for

Create = Callable[[], Record]


@pytest.fixture
def reconciler(records: Records, queue: JobQueue) -> Reconciler:
    """Of a Redis that has been in use for long."""
    used(queue)
    return Reconciler(records, queue, seconds=60, lease=15)


def used(queue: JobQueue) -> None:
    queue.connection.set("immunize:since", (now() - timedelta(hours=1)).timestamp())


def aged(records: Records, record: Record) -> Record:
    """As if it had been created before the time that a gateway is given to enqueue."""
    record.created_at = now() - 2 * GRACE
    records.save(record)
    return record


def test_a_wiped_redis_loses_nothing(reconciler: Reconciler, records: Records, queue: JobQueue, create: Create) -> None:
    jobs = [aged(records, create()) for _ in range(3)]
    for job in jobs:
        queue.enqueue(job)
    (_, held), *_ = queue.take("w", 1).jobs
    assert reconciler.reconcile() == 0, "all are where they should be"
    queue.connection.flushall()
    assert reconciler.reconcile() == 0, "workers are first given time to say what they hold"
    assert queue.keep("w", [held]) == []
    used(queue)
    assert reconciler.reconcile() == 2
    assert all(queue.carried([job.id for job in jobs]))
    assert queue.depth() == 2
    assert reconciler.reconcile() == 0
    assert len(queue.take("w", 8).jobs) == 2, "with the key and the tenant that they had"


def test_a_job_keeps_its_queue(reconciler: Reconciler, records: Records, queue: JobQueue, plan: Plan) -> None:
    aged(records, records.create("public", plan, b"image", key="k", priority="bulk"))
    assert reconciler.reconcile() == 1
    assert (queue.depth("interactive"), queue.depth("bulk")) == (0, 1)


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


@pytest.mark.parametrize(
    ("mark", "left"),
    [
        (b"", []),
        (b"of another version", []),
        ((now() - 2 * ABANDONED).isoformat().encode(), []),
        (now().isoformat().encode(), [("public", "0" * 32)]),
    ],
    ids=["empty", "strange", "old", "new"],
)
def test_a_mark_without_a_record_is_settled_once_nobody_can_be_storing_the_job(
    mark: bytes, left: list[tuple[str, str]], reconciler: Reconciler, records: Records, queue: JobQueue
) -> None:
    records.store.put(f"pending/public/{'0' * 32}", mark)
    records.store.put(f"jobs/public/{'0' * 32}/image", b"half of a job")
    assert reconciler.reconcile() == 0
    assert list(records.pending()) == left
    assert len(list(records.store.keys("jobs/"))) == len(left)
    assert queue.depth() == 0


def test_after_a_wipe_what_was_begun_goes_first_and_then_who_came_first(
    reconciler: Reconciler, records: Records, queue: JobQueue, create: Create
) -> None:
    jobs = [aged(records, create()) for _ in range(4)]
    for number, job in enumerate(jobs):
        job.created_at -= timedelta(seconds=number)
        job.status = "running" if number == 2 else "queued"
        records.save(job)
    assert reconciler.reconcile() == 4
    assert [job_id for _, job_id in queue.take("w", 8).jobs] == [jobs[index].id for index in (2, 3, 1, 0)]


@pytest.mark.parametrize("attempts", [0, 1])
def test_after_a_wipe_what_was_asked_to_end_ends(
    attempts: int, reconciler: Reconciler, records: Records, queue: JobQueue, create: Create
) -> None:
    record = aged(records, create())
    record.attempts = attempts
    records.save(record)
    if attempts:
        records.store.put(place(record, "1" * 64), b"of a worker that died just then")
    records.ask_to_end(record)
    assert reconciler.reconcile() == 1
    assert (records.load("public", record.id).status, queue.depth()) == ("canceled", 0)
    assert list(records.pending()) == []
    kept = {key.rpartition("/")[2] for key in records.store.keys(place(record, ""))}
    assert kept == {"job.json", "image", "cancel"}


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
    used(queue)
    first, second = (Reconciler(records, queue, seconds=60, lease=15) for _ in range(2))
    assert [first.turn(), first.turn(), second.turn()] == [1, 0, 0]


def test_without_redis_nothing_is_settled(records: Records, away: JobQueue, create: Create) -> None:
    record = aged(records, create())
    with pytest.raises(NotReady):
        Reconciler(records, away, seconds=60, lease=15).turn()
    assert list(records.pending()) == [("public", record.id)]


def test_what_a_dead_worker_held_is_put_back(records: Records, queue: JobQueue, create: Create) -> None:
    told: list[int] = []
    reconciler = Reconciler(records, queue, seconds=60, lease=0.01, recovered=told.append)
    jobs = [create() for _ in range(3)]
    for job in jobs:
        queue.enqueue(job)
    queue.take("w", 2)
    queue.connection.delete("immunize:alive:w")
    queue.connection.set("immunize:looked", 1, ex=60)  # somebody has looked all the time
    assert reconciler.turn() == 2
    assert (told, queue.depth()) == ([2], 3)
    wait_for(lambda: reconciler.turn() == 0, "it looks again")
    assert told == [2], "nothing is told of a turn in which nothing was put back"


def test_what_was_just_enqueued_by_another_is_not_enqueued_twice(
    records: Records, queue: JobQueue, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a wipe a turn may take longer than the pause between two."""
    jobs = [aged(records, create()) for _ in range(3)]
    used(queue)
    first, second = (Reconciler(records, queue, seconds=60, lease=15) for _ in range(2))
    enqueue, counts = queue.enqueue, list[int]()

    def slow(record: Record) -> None:
        enqueue(record)
        if not counts:
            counts.append(0)
            counts.append(second.reconcile())

    monkeypatch.setattr(queue, "enqueue", slow)
    counts.append(first.reconcile())
    assert sum(counts) == 3
    assert queue.depth() == len(jobs)
