"""The queue in Redis: ids, progress and leases, never pixels."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from rq import SimpleWorker
from rq.job import Job

from service.contracts import queue as queue_module
from service.contracts.errors import NotReady
from service.contracts.queue import SERIALIZER, JobQueue
from service.contracts.records import now
from service.contracts.schemas import Progress

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def test_jobs_wait_in_order(queue: JobQueue) -> None:
    assert (queue.depth(), queue.oldest_seconds()) == (0, 0.0)
    for job_id in (A, B):
        queue.enqueue("public", job_id)
    assert queue.depth() == 2
    assert [queue.position(job_id) for job_id in (A, B, C)] == [0, 1, None]
    assert [queue.carries(job_id) for job_id in (A, B, C)] == [True, True, False]


def test_what_is_queued_is_json_and_small(queue: JobQueue) -> None:
    queue.enqueue("public", A)
    stored = queue.connection.hgetall(f"rq:job:{A}")
    assert json.loads(zlib.decompress(stored[b"data"])) == ["immunize", None, ["public", A], {}]
    assert sum(len(name) + len(value) for name, value in stored.items()) < 1000


def test_how_long_the_first_has_waited(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.enqueue("public", A)
    queue.enqueue("public", B)
    monkeypatch.setattr(queue_module, "now", lambda: now() + timedelta(seconds=90))
    assert 89 < queue.oldest_seconds() < 100
    queue.connection.delete(f"rq:job:{A}")  # its record in Redis was lost
    assert queue.oldest_seconds() == 0


@pytest.fixture
def worker(queue: JobQueue) -> Iterator[SimpleWorker]:
    """A worker that lives, and has begun the first job that waits."""
    worker = SimpleWorker([queue.rq.name], connection=queue.connection, serializer=SERIALIZER)
    worker.register_birth()
    yield worker
    worker.register_death()


def _begin(worker: SimpleWorker) -> Job:
    found = worker.dequeue_job_and_maintain_ttl(timeout=None)
    assert found is not None
    job, _ = found
    worker.prepare_execution(job)
    worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
    return job


def test_a_job_between_queue_and_worker_is_carried(queue: JobQueue, worker: SimpleWorker) -> None:
    queue.enqueue("public", A)
    worker.dequeue_job_and_maintain_ttl(timeout=None)
    assert queue.depth() == 0
    assert queue.carries(A)


def test_a_begun_job_is_carried_as_long_as_its_worker_lives(queue: JobQueue, worker: SimpleWorker) -> None:
    queue.enqueue("public", A)
    _begin(worker)
    assert (queue.depth(), queue.position(A)) == (0, None)
    assert queue.carries(A)
    queue.connection.delete(worker.key)  # its lease ran out
    assert not queue.carries(A)


def test_forgetting_workers(queue: JobQueue, worker: SimpleWorker) -> None:
    queue.enqueue("public", A)
    queue.enqueue("public", B)
    _begin(worker)
    assert queue.take_turn(60)
    queue.forget_workers()
    assert [queue.carries(A), queue.carries(B)] == [False, True]
    assert queue.take_turn(60), "whoever starts anew reconciles at once"


def test_progress(queue: JobQueue) -> None:
    assert queue.progress(A) is None
    for step in (1, 2):
        queue.set_progress(A, Progress(step=step, steps=20, loss=0.5))
    assert queue.progress(A) == Progress(step=2, steps=20, loss=0.5)
    assert 0 < queue.connection.ttl(f"immunize:progress:{A}") <= 3600
    assert queue.progress(B) is None


def test_one_of_all_takes_the_turn(queue: JobQueue) -> None:
    assert queue.take_turn(60)
    assert not queue.take_turn(60)


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ({}, {}),
        ({"one": {}}, {}),
        ({"one": {"sd": "fetch it", "xl": "fetch"}}, {"sd": "fetch it", "xl": "fetch"}),
        ({"one": {"sd": "fetch it", "xl": "fetch"}, "two": {"xl": "fetch"}}, {"xl": "fetch"}),
        ({"one": {"sd": "fetch it"}, "two": {}}, {}),
    ],
    ids=["nobody spoke", "has all", "lacks two", "lack one", "has what the other lacks"],
)
def test_a_model_is_missing_where_every_worker_lacks_it(
    said: dict[str, dict[str, str]], missing: dict[str, str], queue: JobQueue
) -> None:
    for worker, lacks in said.items():
        queue.announce(worker, lacks)
    assert queue.missing_models() == missing


CALLS: dict[str, Callable[[JobQueue], object]] = {
    "ping": lambda queue: queue.ping(),
    "enqueue": lambda queue: queue.enqueue("public", A),
    "depth": lambda queue: queue.depth(),
    "oldest_seconds": lambda queue: queue.oldest_seconds(),
    "position": lambda queue: queue.position(A),
    "carries": lambda queue: queue.carries(A),
    "set_progress": lambda queue: queue.set_progress(A, Progress(step=1, steps=2)),
    "progress": lambda queue: queue.progress(A),
    "take_turn": lambda queue: queue.take_turn(1),
    "forget_workers": lambda queue: queue.forget_workers(),
    "announce": lambda queue: queue.announce("one", {}),
    "missing_models": lambda queue: queue.missing_models(),
}


def test_every_call_is_in_the_table() -> None:
    assert set(CALLS) == {name for name, value in vars(JobQueue).items() if callable(value) and name[0] != "_"}


@pytest.mark.parametrize("call", CALLS)
def test_without_redis_every_call_says_so(call: str, away: JobQueue) -> None:
    with pytest.raises(NotReady) as caught:
        CALLS[call](away)
    assert (caught.value.status, caught.value.detail) == (503, "the queue cannot be used just now; try again")
    assert caught.value.retry_after


def test_a_redis_that_is_full_says_so(queue: JobQueue) -> None:
    queue.connection.config_set("maxmemory", "1")
    try:
        with pytest.raises(NotReady):
            queue.enqueue("public", A)
    finally:
        queue.connection.config_set("maxmemory", "0")
