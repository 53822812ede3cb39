"""What tenants have used, counted by many at once, and by the clock of Redis."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from service.contracts.batching import batch_key
from service.contracts.catalog import Priority, load_models
from service.contracts.errors import NotReady
from service.contracts.plan import make_plan
from service.contracts.queue import JobQueue, connect
from service.contracts.records import Record, now
from service.contracts.settings import Settings
from service.counters import Counted, Counters
from tests.helpers import wait_for

MANY = 64  # at once


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with connect(settings) as connection:
        yield connection


@pytest.fixture
def counters(redis: Redis) -> Counters:
    return Counters(redis)


@pytest.fixture
def enqueue(redis: Redis, settings: Settings) -> Callable[..., Record]:
    queue, plan = JobQueue(redis, settings), make_plan({}, load_models())
    key = batch_key(plan, (96, 80), mask=False, target=None)

    def enqueued(tenant: str = "acme", priority: Priority = "interactive") -> Record:
        record = Record(
            id=uuid.uuid4().hex, tenant=tenant, priority=priority, key=key, plan=plan, mask=False, created_at=now()
        )
        queue.enqueue(record)
        return record

    return enqueued


def admit(counters: Counters, *, tenant: str = "acme", daily: int = 0, most: int = 0, token: str = "") -> Counted:
    return counters.admit(tenant, 0, 1, daily, most, token or uuid.uuid4().hex)


def at_once(settings: Settings, call: Callable[[Counters], str]) -> list[str]:
    """What many calls at once give, half of them by one gateway and half by another."""
    with connect(settings) as one, connect(settings) as other, ThreadPoolExecutor(16) as pool:
        gateways = (Counters(one), Counters(other))
        return list(pool.map(lambda number: call(gateways[number % 2]), range(MANY)))


@pytest.mark.parametrize("burst", [1, 7, MANY])
def test_no_burst_is_larger_than_it_may_be(burst: int, settings: Settings) -> None:
    refused = at_once(settings, lambda counters: counters.spend("acme", 0.001, burst).refused)
    assert sorted(refused) == [""] * burst + ["rate"] * (MANY - burst)


@pytest.mark.parametrize("quota", [1, 7, MANY])
def test_no_more_pictures_a_day_than_there_may_be(quota: int, settings: Settings) -> None:
    def call(counters: Counters) -> str:
        token = uuid.uuid4().hex
        refused = counters.admit("acme", 0, 1, quota, 0, token).refused
        if not refused:
            counters.settle("acme", token, taken=True)
        return refused

    assert sorted(at_once(settings, call)) == [""] * quota + ["daily"] * (MANY - quota)


@pytest.mark.parametrize("most", [1, 7, MANY])
def test_no_more_uploads_under_way_than_jobs_may_wait(most: int, settings: Settings) -> None:
    refused = at_once(settings, lambda counters: counters.admit("acme", 0, 1, 0, most, uuid.uuid4().hex).refused)
    assert sorted(refused) == [""] * most + ["waiting"] * (MANY - most)


def test_a_rate_is_kept_and_what_is_left_is_told(counters: Counters) -> None:
    paces = [counters.spend("acme", 2, 4) for _ in range(5)]
    assert [pace.refused for pace in paces] == ["", "", "", "", "rate"]
    assert [pace.left for pace in paces] == [3, 2, 1, 0, 0]
    assert all(0 < pace.seconds <= 0.5 for pace in paces)
    assert counters.spend("other", 2, 4).left == 3, "another tenant's is another"
    began = time.monotonic()
    wait_for(lambda: not counters.spend("acme", 2, 4).refused, "one more may come", seconds=5)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("rate", [0.01, 3.0, 7.7, 333.0, 100_000.0])
def test_a_burst_is_as_large_as_is_told(rate: float, counters: Counters, redis: Redis) -> None:
    """However the period is rounded: nothing is lost to it, and no more than time brings is won."""
    burst = max(1, int(rate * 0.5))
    script = redis.register_script("return redis.call('TIME')")
    first = script()
    paces = [counters.spend("acme", rate, burst) for _ in range(min(burst, 500))]
    assert all(not pace.refused for pace in paces)
    if burst <= 500:
        pace = counters.spend("acme", rate, burst)
        last = script()
        seconds = int(last[0]) - int(first[0]) + (int(last[1]) - int(first[1])) / 1e6
        assert pace.refused == "rate" or seconds * rate >= 1 - 100e-6 * rate


def test_a_lower_rate_holds_from_the_next_request_on(counters: Counters) -> None:
    for _ in range(50):
        counters.spend("acme", 100, 100)
    assert counters.spend("acme", 0.1, 1).refused == "rate"
    assert not counters.spend("acme", 0, 1).refused, "and none is none"


def test_a_clock_that_jumps_back_locks_nobody_out(counters: Counters, redis: Redis) -> None:
    seconds = int(redis.time()[0])
    redis.set("immunize:rate:acme", (seconds + 86400) * 1_000_000)
    pace = counters.spend("acme", 2, 4)
    assert (pace.refused, math.ceil(pace.seconds)) == ("rate", 1)


def test_what_was_not_taken_comes_back(counters: Counters, redis: Redis) -> None:
    for _ in range(5):
        assert not admit(counters, daily=1, most=1, token="one").refused
        assert admit(counters, daily=1, most=1).refused == "daily", "while the first is under way"
        counters.settle("acme", "one", taken=False)
    assert not admit(counters, daily=1, most=1, token="one").refused
    counters.settle("acme", "one", taken=True)
    assert admit(counters, daily=1, most=1).refused == "daily"
    assert not redis.exists("immunize:places:acme")


def test_a_place_that_nobody_gives_back_comes_free(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.counters.PLACE_SECONDS", 1)
    assert not admit(counters, daily=1, token="lost").refused
    assert admit(counters, daily=1).refused == "daily"
    wait_for(lambda: not admit(counters, daily=1, token="next").refused, "the place is free", seconds=5)
    counters.settle("acme", "lost", taken=True)  # it was only slow
    assert admit(counters, daily=2).refused == "daily"


def test_a_day_is_that_of_redis_and_ends_with_it(
    counters: Counters, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = int(redis.time()[0])
    monkeypatch.setattr("time.time", lambda: 0.0)  # this machine's clock is none of its business
    redis.set(f"immunize:daily:acme:{seconds // 86400 - 1}", 1000)
    counted = admit(counters, daily=5)
    assert (counted.refused, counted.today) == ("", 4)
    assert (counted.now + counted.day_ends) % 86400 == 0
    assert abs(counted.now - seconds) < 60
    counters.settle("acme", "x", taken=True)
    (kept,) = [key for key in redis.keys("immunize:daily:acme:*") if 0 < redis.ttl(key) <= 2 * 86400]
    assert int(redis.get(kept) or 0) == 1


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_jobs_that_wait_fill_the_share_of_their_tenant_alone(
    priority: Priority, counters: Counters, enqueue: Callable[..., Record], redis: Redis, settings: Settings
) -> None:
    queue = JobQueue(redis, settings)
    jobs = [enqueue("acme", priority) for _ in range(3)]
    assert admit(counters, most=3).refused == "waiting"
    assert admit(counters, most=4, token="x").free == 0
    counters.settle("acme", "x", taken=True)
    assert admit(counters, tenant="other", most=3).free == 2
    assert [queue.position(job.id) for job in jobs] == [0, 1, 2]
    assert queue.depth(priority) == 3

    taken = queue.take("worker", 2, [priority]).jobs
    assert [job_id for _, job_id in taken] == [job.id for job in jobs[:2]], "counting has left the order as it was"
    assert admit(counters, most=3, token="y").free == 1, "what a worker has does not wait"
    counters.settle("acme", "y", taken=False)
    assert queue.remove(jobs[2].id)
    assert admit(counters, most=1).free == 0


def test_counting_leaves_turns_as_they_were(
    counters: Counters, enqueue: Callable[..., Record], redis: Redis, settings: Settings
) -> None:
    for tenant in ("acme", "acme", "acme", "other"):
        enqueue(tenant)
        admit(counters, tenant=tenant, most=100)
    taken = [JobQueue(redis, settings).take("worker", 1).jobs[0][0] for _ in range(4)]
    assert taken == ["acme", "other", "acme", "acme"]


def test_since_when_the_first_of_each_line_waits(counters: Counters, enqueue: Callable[..., Record]) -> None:
    for priority in ("interactive", "bulk", "bulk"):
        enqueue("acme", priority)
    counted = admit(counters, most=2)
    assert [length for length, _ in counted.lines] == [1, 2]
    assert all(since.startswith("20") for _, since in counted.lines)


def test_without_redis_every_call_says_so(settings: Settings) -> None:
    with connect(settings.model_copy(update={"redis_url": "unix:///nowhere/redis.sock"})) as connection:
        counters = Counters(connection)
        for call in (
            lambda: counters.spend("acme", 1, 1),
            lambda: admit(counters),
            lambda: counters.settle("acme", "x", taken=True),
        ):
            with pytest.raises(NotReady):
                call()
