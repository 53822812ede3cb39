"""Who is served next, who holds what, and what becomes of it when a worker dies: on a real Redis."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from redis import Redis

from service.contracts.catalog import PRIORITIES
from service.contracts.fair import WINDOW, FairQueue
from service.contracts.queue import JobQueue
from service.contracts.records import Record
from service.contracts.schemas import Progress
from service.contracts.settings import Settings
from tests.helpers import wait_for
from tests.service.contracts.conftest import Enqueue

SINCE = "2026-01-01T00:00:00.000000Z"
ABSENT = "f" * 32


def take(fair: FairQueue, most: int = 1, worker: str = "w", **how: object) -> list[str]:
    """The ids of what the worker then holds."""
    return [job_id for _, job_id in fair.take(worker, most, SINCE, **how).jobs]  # type: ignore[arg-type]


def die(fair: FairQueue, connection: Redis, worker: str = "w") -> list[str]:
    """As if the worker's lease had run out, and somebody looked."""
    connection.delete(f"immunize:alive:{worker}")
    return fair.reap(at_once=True)


def names(connection: Redis) -> set[str]:
    return {name.decode() for name in connection.scan_iter()}


# in which order


def test_a_tenants_jobs_are_taken_in_order(fair: FairQueue, enqueue: Enqueue) -> None:
    ids = [enqueue() for _ in range(12)]
    assert take(fair, 5) + take(fair, 1) + take(fair, 100) == ids
    assert take(fair, 5) == []


@pytest.mark.parametrize("key", ["k", "other"])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_tenants_many_jobs_delay_anothers_by_one_batch(
    batch: int, key: str, fair: FairQueue, enqueue: Enqueue
) -> None:
    for _ in range(500):
        enqueue("many")
    take(fair, batch)
    mine = enqueue("few", key)
    assert mine in take(fair, batch) + take(fair, batch)


def test_tenants_take_turns(fair: FairQueue, enqueue: Enqueue) -> None:
    for tenant, count in {"a": 9, "b": 3, "c": 6}.items():
        for _ in range(count):
            enqueue(tenant)
    order = [fair.take("w", 1, SINCE).jobs[0][0] for _ in range(18)]
    assert "".join(order) == "abcabcabcacacacaaa"


def test_a_batch_is_shared_out_among_tenants(fair: FairQueue, enqueue: Enqueue) -> None:
    for tenant, count in {"a": 100, "b": 100, "c": 1}.items():
        for _ in range(count):
            enqueue(tenant)
    taken = fair.take("w", 9, SINCE).jobs
    assert Counter(tenant for tenant, _ in taken) == {"a": 4, "b": 4, "c": 1}


def test_a_batch_is_of_one_key_and_takes_company_wherever_it_waits(fair: FairQueue, enqueue: Enqueue) -> None:
    wanted = [enqueue("a", "x"), enqueue("b", "x"), enqueue("a", "x")]
    others = [enqueue("a", "y"), enqueue("c", "y"), enqueue("b", "y")]
    taken = fair.take("w", 8, SINCE)
    assert (taken.key, taken.queue) == ("x", "interactive")
    assert sorted(job_id for _, job_id in taken.jobs) == sorted(wanted)
    assert sorted(take(fair, 8)) == sorted(others)


def test_whose_first_is_passed_over_still_has_a_turn(fair: FairQueue, enqueue: Enqueue) -> None:
    """Else whoever gives company to another's batches, again and again, would never see its own first served."""
    for _ in range(3):
        enqueue("a", "x")
    first = enqueue("b", "y")
    for _ in range(20):
        enqueue("a", "x")
        enqueue("b", "x")
    assert first in take(fair, 2) + take(fair, 2)


def test_company_is_looked_for_within_a_bound(fair: FairQueue, enqueue: Enqueue) -> None:
    for _ in range(WINDOW):
        enqueue("b", "x")
    far, leads, near = enqueue("b", "y"), enqueue("a", "y"), enqueue("c", "y")
    assert set(take(fair, 8, key="y")) == {leads, near}
    take(fair, 1, key="x")
    assert take(fair, 8, key="y") == [far], "it has moved up"


@pytest.mark.parametrize(
    ("how", "first"),
    [({}, "interactive"), ({"queues": PRIORITIES[::-1]}, "bulk"), ({"queues": ("bulk",)}, "bulk")],
    ids=str,
)
def test_one_queue_comes_before_the_other(
    how: dict[str, object], first: str, fair: FairQueue, enqueue: Enqueue
) -> None:
    ids = {"bulk": enqueue(priority="bulk"), "interactive": enqueue(priority="interactive")}
    assert take(fair, 8, **how) == [ids[first]], "never both in one batch"
    if len(how.get("queues", PRIORITIES)) == 2:  # type: ignore[arg-type]
        assert len(take(fair, 8, **how)) == 1
    else:
        assert take(fair, 8, **how) == []


def test_company_for_a_key(fair: FairQueue, enqueue: Enqueue) -> None:
    enqueue("a", "x")
    wanted = enqueue("a", "y")
    assert take(fair, 8, key="z") == []
    assert take(fair, 8, key="y") == [wanted]


# who holds what


def test_what_is_taken_is_held_from_the_same_instant(
    fair: FairQueue, queue: JobQueue, enqueue: Enqueue, settings: Settings
) -> None:
    job_id = enqueue()
    assert list(queue.carried([job_id, ABSENT])) == [True, False]
    assert take(fair) == [job_id]
    connection = queue.connection
    assert connection.hgetall("immunize:held") == {job_id.encode(): b"w"}
    lease = settings.lease_seconds * 1000
    assert lease - 5000 < connection.pttl("immunize:alive:w") <= lease
    told = connection.hmget(f"rq:job:{job_id}", "status", "worker_name", "started_at")
    assert told == [b"started", b"w", SINCE.encode()]
    assert list(queue.carried([job_id])) == [True]
    assert (queue.depth(), queue.position(job_id)) == (0, None)


def test_a_sign_of_life_renews_the_lease(queue: JobQueue, settings: Settings, enqueue: Enqueue) -> None:
    """By Redis's own clock: no worker's clock counts."""
    brief = FairQueue(queue.connection, 0.5)
    job_id = enqueue()
    take(brief)
    for _ in range(3):
        wait_for(lambda: queue.connection.pttl("immunize:alive:w") < 400, "time passes")
        assert brief.keep("w", [job_id]) == []
        assert queue.connection.pttl("immunize:alive:w") > 400
        assert brief.reap(at_once=True) == []
    wait_for(lambda: brief.reap(at_once=True) == [job_id], "its lease ran out")


def test_a_worker_hears_what_it_has_lost(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    ids = [enqueue() for _ in range(3)]
    assert take(fair, 3) == ids
    assert sorted(die(fair, queue.connection)) == sorted(ids)
    taken = take(fair, 1, "other")
    assert fair.keep("w", ids) == taken
    assert queue.depth() == 0, "what still waited is its own again"
    assert queue.connection.hgetall("immunize:held") == {
        job_id.encode(): b"other" if job_id in taken else b"w" for job_id in ids
    }
    statuses = {queue.connection.hget(f"rq:job:{job_id}", "status") for job_id in ids}
    assert statuses == {b"started"}
    assert take(fair, 3, "other") == []


def test_after_a_wipe_a_worker_says_again_what_it_holds(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    ids = [enqueue() for _ in range(2)]
    take(fair, 2)
    queue.connection.flushall()
    assert list(queue.carried(ids)) == [False, False]
    assert fair.keep("w", ids) == []
    assert list(queue.carried(ids)) == [True, True]
    fair.release("w", ids)
    assert names(queue.connection) == {"immunize:alive:w"}


@pytest.mark.parametrize("sorted_already", [False, True])
def test_what_is_held_is_not_taken_a_second_time(
    sorted_already: bool, fair: FairQueue, queue: JobQueue, waiting: Callable[..., Record]
) -> None:
    """After a wipe it may be enqueued again just before its worker says that it holds it."""
    record = waiting()
    queue.enqueue(record)
    queue.enqueue(record)
    if sorted_already:
        assert take(fair, 1) == [record.id]
    else:
        queue.connection.hset("immunize:held", record.id, "w")
    assert take(fair, 8, "other") == []
    assert fair.keep("w", [record.id]) == []


def test_given_back_is_first_again_and_in_order(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    ids = [enqueue() for _ in range(5)]
    assert take(fair, 3) == ids[:3]
    fair.give_back("w", ids[:3])
    assert queue.depth() == 5
    assert queue.connection.hget(f"rq:job:{ids[0]}", "status") == b"queued"
    assert queue.connection.exists("immunize:held") == 0
    assert take(fair, 8, "other") == ids


def test_a_tenant_whose_jobs_come_back_is_next(fair: FairQueue, enqueue: Enqueue) -> None:
    mine = [enqueue("a")]
    assert take(fair) == mine
    for _ in range(3):
        enqueue("b")
    fair.give_back("w", mine)
    assert take(fair) == mine


@pytest.mark.parametrize("how", ["release", "give_back"])
def test_what_another_holds_is_left_alone(how: str, fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    job_id = enqueue()
    take(fair)
    getattr(fair, how)("other", [job_id, ABSENT])
    assert queue.connection.hget("immunize:held", job_id) == b"w"
    assert queue.connection.exists(f"rq:job:{job_id}")


def test_what_a_lost_answer_took_goes_back(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    known, lost, others = enqueue(), enqueue(), enqueue()
    take(fair, 2)
    take(fair, 1, "other")
    assert fair.strays("w", [known]) == [lost]
    assert fair.strays("w", [known]) == []
    assert queue.connection.hgetall("immunize:held") == {known.encode(): b"w", others.encode(): b"other"}
    assert take(fair) == [lost]


# life and death


def test_what_a_dead_worker_held_goes_to_the_front(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    dead, living = [enqueue(), enqueue()], [enqueue()]
    assert (take(fair, 2), take(fair, 1, "living")) == (dead, living)
    later = enqueue()
    assert sorted(die(fair, queue.connection)) == sorted(dead)
    assert fair.reap(at_once=True) == []
    assert [queue.position(job_id) for job_id in (*living, later)] == [None, 2]
    assert sorted(take(fair, 2)) == sorted(dead)


def test_nobody_is_taken_for_dead_before_all_could_speak(
    fair: FairQueue, queue: JobQueue, enqueue: Enqueue, settings: Settings
) -> None:
    """Where nobody looked for a while (Redis was away, frozen, or took no writes), leases ran out for no fault."""
    job_id, connection, lease = enqueue(), queue.connection, settings.lease_seconds * 1000
    for _ in range(2):
        take(fair)
        connection.delete("immunize:alive:w", "immunize:looked")
        assert [fair.reap(), fair.reap()] == [[], []], "nobody had looked for so long"
        assert 0 < connection.pttl("immunize:patience") <= lease
        assert 0 < connection.pttl("immunize:looked") <= lease / 2
        connection.delete("immunize:patience")  # its time is over, and somebody has looked all the time since
        assert fair.reap() == [job_id]
    take(fair)
    assert fair.reap() == [], "it lives"


def test_a_redis_that_takes_no_writes_lets_nobody_look(queue: JobQueue, fair: FairQueue, enqueue: Enqueue) -> None:
    enqueue()
    take(fair)
    queue.connection.delete("immunize:alive:w", "immunize:patience")
    queue.connection.set("immunize:looked", 1)
    queue.connection.config_set("maxmemory", "1")
    try:
        with pytest.raises(Exception, match="OOM"):
            fair.reap()
    finally:
        queue.connection.config_set("maxmemory", "0")
    assert queue.connection.hlen("immunize:held") == 1


def test_whoever_owns_redis_knows_that_nobody_lives(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    ids = [enqueue(), enqueue()]
    take(fair, 1)
    queue.forget_workers()
    assert (queue.depth(), queue.connection.exists("immunize:held")) == (2, 0)
    assert take(fair, 2) == ids


# what is left


def test_a_job_that_ended_leaves_nothing(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    def rounds(count: int) -> set[str]:
        for number in range(count):
            ids = [enqueue(f"t{number % 3}", f"k{number % 2}", PRIORITIES[number % 2]) for _ in range(4)]
            queue.set_progress(dict.fromkeys(ids, Progress(step=1, steps=2)))
            for job_id in ids:
                queue.claim(job_id, "canceled" if job_id == ids[-1] else "finished")
            taken = [job_id for _ in PRIORITIES for job_id in take(fair, 3)]
            fair.give_back("w", taken[1:])
            fair.remove(ids[-1])
            while held := take(fair, 8):
                fair.release("w", held)
            fair.release("w", taken[:1])
        return names(queue.connection)

    assert rounds(3) == rounds(40) == {"immunize:bell", "immunize:alive:w", "rq:queues"}
    assert queue.connection.llen("immunize:bell") <= 64
    queue.leave("w")
    assert names(queue.connection) == {"immunize:bell", "rq:queues"}


@pytest.mark.parametrize("sorted_already", [False, True])
def test_a_job_that_waits_can_be_removed(
    sorted_already: bool, fair: FairQueue, queue: JobQueue, enqueue: Enqueue
) -> None:
    first, gone, last = (enqueue() for _ in range(3))
    if sorted_already:
        assert take(fair) == [first]
    assert fair.remove(gone)
    assert not fair.remove(gone)
    assert not queue.connection.exists(f"rq:job:{gone}")
    assert take(fair, 8) == ([last] if sorted_already else [first, last])
    assert not fair.remove(last), "a worker has it"
    assert not fair.remove(ABSENT)


def test_a_tenants_last_job_removed_takes_it_from_the_ring(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    gone = enqueue("a")
    take(fair, key="none")  # sorts it
    assert {"immunize:ring:interactive", "immunize:line:interactive:a"} <= names(queue.connection)
    fair.remove(gone)
    assert not [name for name in names(queue.connection) if "ring" in name or "line" in name]


# what is told


def test_how_many_are_served_before(fair: FairQueue, enqueue: Enqueue) -> None:
    """Exactly what then happens for one tenant; within one turn of each tenant for several."""
    ids = [enqueue(tenant) for tenant in "aaaaabbcaaacb"]
    told = {job_id: fair.ahead(job_id) for job_id in ids}
    assert [told[job_id] for job_id in ids] == list(range(13)), "nobody has sorted them yet"
    served = take(fair)
    assert fair.ahead(served[0]) is None
    told = {job_id: fair.ahead(job_id) for job_id in ids if job_id not in served}
    for place in range(12):
        (job_id,) = take(fair)
        guess = told[job_id]
        assert guess is not None
        assert abs(guess - place) <= 2, f"{guess} before it, it was said, and it were {place}"
    assert fair.ahead(ABSENT) is None


def test_how_many_are_served_before_for_one_tenant(fair: FairQueue, enqueue: Enqueue) -> None:
    ids = [enqueue() for _ in range(4)]
    for number in range(4):
        assert [fair.ahead(job_id) for job_id in ids] == [None] * number + list(range(4 - number))
        take(fair)


def test_how_many_wait_and_for_how_long(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    assert [fair.count(name) for name in PRIORITIES] == [(0, ""), (0, "")]
    ids = [enqueue(tenant, priority="bulk") for tenant in "aabb"]
    times = [f"2026-01-0{day}T00:00:00.000000Z" for day in (2, 1, 3, 4)]
    for job_id, since in zip(ids, times, strict=True):
        queue.connection.hset(f"rq:job:{job_id}", "enqueued_at", since)
    assert fair.count("interactive") == (0, "")
    assert fair.count("bulk") == (4, times[0]), "the first of each tenant is looked at"
    take(fair)
    assert fair.count("bulk") == (3, times[1])
    queue.connection.delete(f"rq:job:{ids[1]}")  # Redis lost it
    assert fair.count("bulk") == (3, times[2])


# what others do to Redis


def test_a_job_whose_hash_was_deleted_is_passed_over(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    arrived, sorted_first, kept, last = enqueue(), enqueue(), enqueue(), enqueue()
    queue.connection.delete(f"rq:job:{arrived}")
    assert take(fair, 1) == [sorted_first]
    queue.connection.delete(f"rq:job:{kept}")
    assert take(fair, 1) == [last]
    assert fair.ahead(kept) is None
    assert take(fair) == []
    assert queue.depth() == 0


def test_a_gone_job_costs_its_tenant_no_turn(fair: FairQueue, queue: JobQueue, enqueue: Enqueue) -> None:
    gone, mine, theirs = enqueue("a"), enqueue("a"), [enqueue("b") for _ in range(4)]
    enqueue("c")
    take(fair, key="none")  # sorts them
    queue.connection.delete(f"rq:job:{gone}")
    assert mine in take(fair) + take(fair)
    assert theirs


@pytest.mark.parametrize(
    "meta", [None, b"", b"not json", b"[1]", b"7", b'{"tenant": null, "key": {}}', b'{"tenant": 5, "key": "two words"}']
)
def test_whatever_stands_in_a_job_the_others_are_served(
    meta: bytes | None, fair: FairQueue, queue: JobQueue, enqueue: Enqueue
) -> None:
    strange, mine = enqueue(), enqueue("b", "x")
    if meta is None:
        queue.connection.hdel(f"rq:job:{strange}", "meta")
    else:
        queue.connection.hset(f"rq:job:{strange}", "meta", meta)
    taken = list(itertools.chain.from_iterable(take(fair, 8) for _ in range(3)))
    assert sorted(taken) == sorted([strange, mine])
    fair.give_back("w", taken)
    assert queue.depth() == 2
    assert all(fair.remove(job_id) for job_id in taken)
