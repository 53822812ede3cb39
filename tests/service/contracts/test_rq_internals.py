"""What we depend on of RQ beyond its public calls. A new RQ that changed any of it fails here, and not in production.

The scripts of `service.contracts.fair` read and write RQ's keys themselves, and the worker has a loop of its own and
keeps no more of RQ's than its registration.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import rq
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import utcformat, utcparse

from service.contracts.catalog import PRIORITIES
from service.contracts.fair import COMMON, FairQueue
from service.contracts.queue import SERIALIZER, JobQueue
from tests.service.contracts.conftest import Enqueue

SINCE = "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def rq_queue(queue: JobQueue) -> Queue:
    """The queue as RQ's own tools see it."""
    return Queue("interactive", connection=queue.connection, serializer=SERIALIZER)


def fetch(connection: Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


def test_this_was_checked_with_this_rq() -> None:
    assert rq.VERSION == "3.0.0"


@pytest.mark.parametrize("name", PRIORITIES)
def test_a_queues_list_is_rq_queue_name(name: str, queue: JobQueue) -> None:
    assert Queue(name, connection=queue.connection, serializer=SERIALIZER).key == f"rq:queue:{name}"


def test_a_jobs_hash_is_rq_job_id(queue: JobQueue, enqueue: Enqueue) -> None:
    job_id = enqueue()
    assert fetch(queue.connection, job_id).key == f"rq:job:{job_id}"
    assert queue.connection.type(f"rq:job:{job_id}") == b"hash"


def test_the_fields_of_a_jobs_hash(queue: JobQueue, enqueue: Enqueue) -> None:
    """status, origin and enqueued_at as text; meta as plain JSON text, which a script can read."""
    began = datetime.now(UTC)
    job_id = enqueue("somebody", "some-key", "bulk")
    found = queue.connection.hmget(f"rq:job:{job_id}", "status", "origin", "enqueued_at", "meta")
    status, origin, enqueued_at, meta = (value.decode() for value in found)
    assert (status, origin) == ("queued", "bulk")
    assert json.loads(meta) == {"tenant": "somebody", "key": "some-key"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", enqueued_at), "in this form text sorts as time does"
    assert abs(utcparse(enqueued_at) - began) < timedelta(seconds=30)
    assert utcformat(utcparse(enqueued_at)) == enqueued_at


def test_enqueue_call_with_a_pipeline_sends_nothing_itself(queue: JobQueue, rq_queue: Queue) -> None:
    connection = queue.connection
    with connection.pipeline() as pipeline:
        rq_queue.enqueue_call("immunize", args=("a", "b"), job_id="x", meta={"key": "k"}, timeout=5, pipeline=pipeline)
        assert connection.keys() == []
        pipeline.execute()
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"x"]
    assert set(connection.keys()) == {b"rq:queue:interactive", b"rq:queues", b"rq:job:x"}
    assert connection.ttl("rq:job:x") == -1, "a job that waits does not expire"


def test_rq_sees_what_our_scripts_write(queue: JobQueue, fair: FairQueue, enqueue: Enqueue) -> None:
    job_id = enqueue()
    assert fetch(queue.connection, job_id).get_status().value == "queued"
    fair.take("w", 1, SINCE)
    job = fetch(queue.connection, job_id)
    assert (job.get_status().value, job.worker_name, utcformat(job.started_at)) == ("started", "w", SINCE)
    fair.give_back("w", [job_id])
    assert fetch(queue.connection, job_id).get_status().value == "queued"


def test_every_key_of_rq_that_the_scripts_name_is_tested_here() -> None:
    source = inspect.getsource(inspect.getmodule(FairQueue))  # type: ignore[arg-type]
    assert set(re.findall(r"'(rq:[a-z:]+)'", source)) == {"rq:job:", "rq:queue:"}
    fields = set(re.findall(r"'rq:job:' \.\. id, ([^)]*)\)", source)) | set(re.findall(r"HMGET[^)]*\)", COMMON))
    named = set(re.findall(r"'(status|worker_name|started_at|enqueued_at|meta|origin)'", source))
    assert named == {"status", "worker_name", "started_at", "enqueued_at", "meta", "origin"}
    assert fields


@pytest.mark.parametrize("at_front", [False, True])
def test_what_rq_requeues_is_taken(at_front: bool, queue: JobQueue, rq_queue: Queue, fair: FairQueue) -> None:
    """RQ's own failed registry, and `rq requeue`."""
    job = rq_queue.enqueue("immunize", "a", "b")
    assert [job_id for _, job_id in fair.take("w", 1, SINCE).jobs] == [job.id]
    with queue.connection.pipeline() as pipeline:
        rq_queue.failed_job_registry.add(job, pipeline=pipeline)
        pipeline.execute()
    fair.keep("w", [])
    queue.connection.hdel("immunize:held", job.id)
    again = rq_queue.failed_job_registry.requeue(job.id, at_front=at_front)
    assert again.id == job.id
    assert queue.position(job.id) == 0
    taken = fair.take("w", 1, SINCE)
    assert taken.jobs == (("-", job.id),), "it names no tenant, and goes with no other"


def test_what_rq_pushes_is_taken(queue: JobQueue, rq_queue: Queue, fair: FairQueue, enqueue: Enqueue) -> None:
    first = enqueue("-")
    pushed = rq_queue.enqueue("immunize", "a", "b", meta={"tenant": "-", "key": "k"})
    assert [job_id for _, job_id in fair.take("w", 8, SINCE).jobs] == [first, pushed.id]
    rq_queue.push_job_id(first)
    fair.give_back("w", [pushed.id])
    assert [job_id for _, job_id in fair.take("other", 8, SINCE).jobs] == [pushed.id], "the first is held"


@pytest.fixture
def worker(queue: JobQueue) -> Iterator[SimpleWorker]:
    worker = SimpleWorker(list(PRIORITIES), name="w", connection=queue.connection, serializer=SERIALIZER, worker_ttl=15)
    worker.register_birth()
    yield worker
    worker.register_death()


def test_a_workers_registration(queue: JobQueue, worker: SimpleWorker) -> None:
    connection = queue.connection
    assert worker.key == "rq:worker:w"
    assert connection.smembers("rq:workers") == {b"rq:worker:w"}
    assert 0 < connection.ttl(worker.key) <= 15 + 60
    assert [each.name for each in SimpleWorker.all(connection=connection)] == ["w"]
    connection.hset(worker.key, "state", "busy")
    assert SimpleWorker.all(connection=connection)[0].get_state() == "busy"


def test_a_heartbeat(queue: JobQueue, worker: SimpleWorker) -> None:
    connection = queue.connection
    connection.expire(worker.key, 5)
    before = connection.hget(worker.key, "last_heartbeat")
    worker.heartbeat()
    assert connection.ttl(worker.key) > 60
    assert connection.hget(worker.key, "last_heartbeat") != before


def test_a_registration_that_a_wipe_took_can_be_made_again(queue: JobQueue, worker: SimpleWorker) -> None:
    queue.connection.flushall()
    assert not queue.connection.exists(worker.key)
    worker.register_birth()
    assert [each.name for each in SimpleWorker.all(connection=queue.connection)] == ["w"]


def test_a_death(queue: JobQueue, worker: SimpleWorker) -> None:
    worker.register_death()
    assert SimpleWorker.all(connection=queue.connection) == []
    assert 0 < queue.connection.ttl(worker.key) <= 60
