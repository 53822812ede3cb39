"""The queue in Redis: ids, progress and leases, never pixels."""

from __future__ import annotations

import itertools
import json
import threading
import zlib
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from rq import SimpleWorker

from service.contracts import queue as queue_module
from service.contracts.errors import NotReady
from service.contracts.queue import SERIALIZER, End, JobQueue, connect
from service.contracts.records import Record, now
from service.contracts.schemas import Progress
from service.contracts.settings import Settings
from tests.helpers import wait_for
from tests.service.contracts.conftest import Enqueue

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def test_jobs_wait_in_order(queue: JobQueue, enqueue: Enqueue) -> None:
    assert (queue.depth(), queue.oldest_seconds("interactive")) == (0, 0.0)
    ids = [enqueue(), enqueue(), enqueue(priority="bulk")]
    assert (queue.depth(), queue.depth("interactive"), queue.depth("bulk")) == (3, 2, 1)
    assert [queue.position(job_id) for job_id in (*ids, A)] == [0, 1, 0, None]
    assert list(queue.carried([*ids, A])) == [True, True, True, False]
    assert list(queue.carried([])) == []


def test_what_is_queued_is_json_and_small(queue: JobQueue, waiting: Callable[..., Record]) -> None:
    record = waiting("public", "k" * 16)
    queue.enqueue(record)
    stored = queue.connection.hgetall(f"rq:job:{record.id}")
    assert json.loads(zlib.decompress(stored[b"data"])) == ["immunize", None, ["public", record.id], {}]
    assert json.loads(stored[b"meta"]) == {"tenant": "public", "key": "k" * 16}
    assert sum(len(name) + len(value) for name, value in stored.items()) < 1000
    everything = [queue.connection.dump(name) for name in queue.connection.scan_iter()]
    assert not any(b"\x80\x04\x95" in value or b"\x80\x05\x95" in value for value in everything), "no pickles"


def test_a_job_without_a_key_goes_with_no_other(queue: JobQueue, waiting: Callable[..., Record]) -> None:
    for _ in range(2):
        queue.enqueue(waiting(key=""))
    assert len(queue.take("w", 8).jobs) == 1


def test_a_job_is_enqueued_whole_or_not_at_all(
    queue: JobQueue, waiting: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(redis.client.Pipeline, "execute", broken)
    with pytest.raises(NotReady):
        queue.enqueue(waiting())
    assert queue.connection.keys() == []


def test_how_long_the_first_has_waited(queue: JobQueue, enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = enqueue(), enqueue()
    monkeypatch.setattr(queue_module, "now", lambda: now() + timedelta(seconds=90))
    assert 89 < queue.oldest_seconds("interactive") < 100
    assert queue.oldest_seconds("bulk") == 0
    queue.connection.delete(f"rq:job:{first}")  # its record in Redis was lost
    assert queue.oldest_seconds("interactive") == 0
    monkeypatch.setattr(queue_module, "now", lambda: now() - timedelta(seconds=90))
    enqueue()
    assert queue.oldest_seconds("interactive") == 0, "never negative, whatever the clocks"


def test_whoever_listens_hears_the_bell(queue: JobQueue, settings: Settings, enqueue: Enqueue) -> None:
    """Long before its time is over."""
    heard = threading.Event()

    def listen() -> None:
        with connect(settings) as connection:
            JobQueue(connection, settings).listen(5)
        heard.set()

    thread = threading.Thread(target=listen)
    thread.start()
    wait_for(lambda: queue.connection.info("clients")["blocked_clients"], "it listens")
    enqueue()
    assert heard.wait(4)
    thread.join()
    for _ in range(100):
        enqueue()
    assert queue.connection.llen("immunize:bell") == 64, "nobody listens, and the bell is no queue"


@pytest.mark.parametrize("again", ["give_back", "reap"])
def test_what_comes_back_rings_the_bell(again: str, queue: JobQueue, enqueue: Enqueue) -> None:
    job_id = enqueue()
    queue.take("w", 1)
    connection = queue.connection
    connection.delete("immunize:bell", "immunize:alive:w")
    if again == "give_back":
        queue.give_back("w", [job_id])
    else:
        connection.set("immunize:looked", 1, ex=60)
        assert queue.reap() == [job_id]
    assert connection.llen("immunize:bell") == 1


@pytest.mark.parametrize("ends", list(itertools.permutations(["finished", "failed", "canceled"], 2)), ids=str)
def test_how_a_job_ends_is_decided_once(ends: tuple[End, End], queue: JobQueue) -> None:
    first, second = ends
    assert queue.claimed([A, B]) == [None, None]
    assert [queue.claim(A, end) for end in (first, second, first)] == [first] * 3
    assert queue.claimed([A, B]) == [first, None]
    assert queue.claim(B, second) == second
    assert 0 < queue.connection.ttl(f"immunize:end:{A}") <= 3600, "it is no leak"
    assert queue.claimed([]) == []


def test_a_redis_has_settled_once_it_was_in_use_for_a_while(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not queue.settled(60)
    later = now() + timedelta(seconds=61)
    with monkeypatch.context() as patched:
        patched.setattr(queue_module, "now", lambda: later)
        assert queue.settled(60)
    assert not queue.settled(60)
    with monkeypatch.context() as patched:
        patched.setattr(queue_module, "now", lambda: now() - timedelta(days=1))
        assert queue.settled(60), "a clock that was set back does not keep it waiting for ever"
        queue.connection.flushall()
        assert not queue.settled(60)


def test_forgetting_workers(queue: JobQueue, enqueue: Enqueue) -> None:
    ids = [enqueue() for _ in range(2)]
    assert len(queue.take("w", 1).jobs) == 1
    worker = SimpleWorker(["interactive"], connection=queue.connection, serializer=SERIALIZER)
    worker.register_birth()
    queue.announce("w", {"absent": "fetch it"})
    assert queue.take_turn(60)
    queue.forget_workers()
    assert [queue.position(job_id) for job_id in ids] == [0, 1]
    assert SimpleWorker.all(connection=queue.connection) == []
    assert queue.missing_models() == {}
    assert queue.take_turn(60), "whoever starts anew reconciles at once"


def test_a_worker_that_leaves_is_gone(queue: JobQueue, enqueue: Enqueue) -> None:
    enqueue()
    queue.take("w", 1)
    queue.announce("w", {"absent": "fetch it"})
    queue.leave("w")
    assert queue.missing_models() == {}
    assert not queue.connection.exists("immunize:alive:w")


def test_progress(queue: JobQueue) -> None:
    assert queue.progress(A) is None
    for step in (1, 2):
        queue.set_progress({A: Progress(step=step, steps=20, loss=0.5), C: Progress(step=1, steps=1)})
    assert queue.progress(A) == Progress(step=2, steps=20, loss=0.5)
    assert 0 < queue.connection.ttl(f"immunize:progress:{A}") <= 3600
    assert queue.progress(B) is None
    queue.set_progress({})


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


CALLS: dict[str, Callable[[JobQueue, Record], object]] = {
    "ping": lambda queue, _: queue.ping(),
    "enqueue": lambda queue, record: queue.enqueue(record),
    "depth": lambda queue, _: queue.depth(),
    "oldest_seconds": lambda queue, _: queue.oldest_seconds("bulk"),
    "position": lambda queue, _: queue.position(A),
    "remove": lambda queue, _: queue.remove(A),
    "claim": lambda queue, _: queue.claim(A, "finished"),
    "claimed": lambda queue, _: queue.claimed([A]),
    "take": lambda queue, _: queue.take("w", 1),
    "listen": lambda queue, _: queue.listen(1),
    "keep": lambda queue, _: queue.keep("w", [A]),
    "give_back": lambda queue, _: queue.give_back("w", [A]),
    "strays": lambda queue, _: queue.strays("w", [A]),
    "release": lambda queue, _: queue.release("w", [A]),
    "leave": lambda queue, _: queue.leave("w"),
    "reap": lambda queue, _: queue.reap(),
    "carried": lambda queue, _: list(queue.carried([A])),
    "settled": lambda queue, _: queue.settled(1),
    "set_progress": lambda queue, _: queue.set_progress({A: Progress(step=1, steps=2)}),
    "progress": lambda queue, _: queue.progress(A),
    "take_turn": lambda queue, _: queue.take_turn(1),
    "forget_workers": lambda queue, _: queue.forget_workers(),
    "announce": lambda queue, _: queue.announce("one", {}),
    "missing_models": lambda queue, _: queue.missing_models(),
}


def test_every_call_is_in_the_table() -> None:
    assert set(CALLS) == {name for name, value in vars(JobQueue).items() if callable(value) and name[0] != "_"}


@pytest.mark.parametrize("call", CALLS)
def test_without_redis_every_call_says_so(call: str, away: JobQueue, waiting: Callable[..., Record]) -> None:
    with pytest.raises(NotReady) as caught:
        CALLS[call](away, waiting())
    assert (caught.value.status, caught.value.detail) == (503, "the queue cannot be used just now; try again")
    assert caught.value.retry_after


def test_a_redis_that_is_full_says_so(queue: JobQueue, waiting: Callable[..., Record]) -> None:
    queue.connection.config_set("maxmemory", "1")
    try:
        with pytest.raises(NotReady):
            queue.enqueue(waiting())
    finally:
        queue.connection.config_set("maxmemory", "0")
