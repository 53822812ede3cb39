"""Whatever happens in whatever order: every job is in exactly one place, none is lost and none is doubled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis

from service.contracts.catalog import PRIORITIES, Priority
from service.contracts.fair import FairQueue
from service.contracts.queue import JobQueue
from service.contracts.records import Record

WORKERS = ("one", "two", "three")
Line = tuple[Priority, str]


class Sequences(RuleBasedStateMachine):
    """What Redis holds, beside a model of it in plain lists."""

    queue: JobQueue
    fair: FairQueue
    make: Callable[..., Record]

    def __init__(self) -> None:
        super().__init__()
        self.connection: Redis = self.queue.connection
        self.connection.flushall()
        self.records: dict[str, Record] = {}
        self.lines: dict[Line, list[str]] = {}
        self.held: dict[str, str] = {}
        self.bare: set[str] = set()  # held, and since a wipe Redis knows no more of them
        self.ended: set[str] = set()

    jobs: Bundle[str] = Bundle("jobs")
    workers = st.sampled_from(WORKERS)

    @rule(target=jobs, tenant=st.sampled_from("ab"), key=st.sampled_from("xy"), priority=st.sampled_from(PRIORITIES))
    def enqueue(self, tenant: str, key: str, priority: Priority) -> str:
        record = self.make(tenant, key, priority)
        self.queue.enqueue(record)
        self.records[record.id] = record
        self._line(record.id).append(record.id)
        return record.id

    @rule(worker=workers, most=st.integers(1, 4), first=st.sampled_from(PRIORITIES), key=st.sampled_from(["", "x"]))
    def take(self, worker: str, most: int, first: Priority, key: str) -> None:
        queues = sorted(PRIORITIES, key=lambda name: name != first)
        taken = self.fair.take(worker, most, "2026-01-01T00:00:00.000000Z", queues, key)
        able = {name: [job for job in self._waiting(name) if self._fits(job, key)] for name in queues}
        if not any(able.values()):
            assert taken.jobs == ()
            return
        assert taken.queue == next(name for name in queues if able[name])
        fitting = [job for job in able[taken.queue] if self._fits(job, taken.key)]
        assert len(taken.jobs) == min(most, len(fitting)), "as many as there are"
        for tenant, job in taken.jobs:
            line = self.lines[taken.queue, tenant]
            assert job == next(each for each in line if self._fits(each, taken.key)), "the first of its tenant's"
            line.remove(job)
            self.held[job] = worker
        if not key:
            tenant, job = taken.jobs[0]
            assert job in able[taken.queue]

    @rule(worker=workers, count=st.integers(0, 4))
    def give_back(self, worker: str, count: int) -> None:
        given = self._of(worker)[:count]
        self.fair.give_back(worker, given)
        self._put_back(given[::-1])

    @rule(worker=workers, count=st.integers(0, 4))
    def release(self, worker: str, count: int) -> None:
        over = self._of(worker)[:count]
        self.fair.release(worker, over)
        for job in over:
            del self.held[job]
            self.bare.discard(job)
            self.ended.add(job)

    @rule(worker=workers)
    def keep(self, worker: str) -> None:
        assert self.fair.keep(worker, self._of(worker)) == []

    @rule(worker=workers)
    def lose_an_answer(self, worker: str) -> None:
        known, lost = self._of(worker)[::2], self._of(worker)[1::2]
        back = self.fair.strays(worker, known)
        assert sorted(back) == sorted(set(lost) - self.bare)
        self._put_back(back + [job for job in lost if job in self.bare])

    @rule(worker=workers)
    def die(self, worker: str) -> None:
        held = self._of(worker)
        self.connection.delete(f"immunize:alive:{worker}")
        back = self.fair.reap(at_once=True)
        assert sorted(back) == sorted(set(held) - self.bare)
        self._put_back(back + [job for job in held if job in self.bare])

    @rule(worker=workers, other=workers)
    def be_slow(self, worker: str, other: str) -> None:
        """It is taken for dead, and takes up again what nobody took meanwhile."""
        held = self._of(worker)
        self.connection.delete(f"immunize:alive:{worker}")
        self.fair.reap(at_once=True)
        taken = [] if other == worker else [job for _, job in self.fair.take(other, 1, "", PRIORITIES).jobs]
        assert self.fair.keep(worker, held) == [job for job in taken if job in held]
        for job in taken:
            if job not in held:
                self._line(job).remove(job)
            self.held[job] = other

    @rule(job=jobs)
    def remove(self, job: str) -> None:
        waits = job in self._line(job)
        assert self.fair.remove(job) == waits
        if waits:
            self._line(job).remove(job)
            self.ended.add(job)

    @rule(job=jobs)
    def lose_its_hash(self, job: str) -> None:
        """As when somebody cleans up by hand."""
        self.connection.delete(f"rq:job:{job}")
        if job in self.held:
            self.bare.add(job)
        elif job in self._line(job):
            self._line(job).remove(job)
            self.ended.add(job)

    @rule()
    def wipe(self) -> None:
        """Workers say again what they hold; the rest is enqueued again, as the reconciler does."""
        self.connection.flushall()
        self.bare = set(self.held)
        for worker in WORKERS:
            assert self.fair.keep(worker, self._of(worker)) == []
        lost = [job for line in self.lines.values() for job in line]
        assert list(self.queue.carried(lost)) == [False] * len(lost)
        for job in lost:
            self.queue.enqueue(self.records[job])

    @rule()
    def begin_anew(self) -> None:
        held = [job.decode() for job in self.connection.hkeys("immunize:held")]
        self.queue.forget_workers()
        self._put_back([job for job in held if job not in self.bare] + [job for job in held if job in self.bare])

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        held = {job.decode(): worker.decode() for job, worker in self.connection.hgetall("immunize:held").items()}
        assert held == self.held
        for name in PRIORITIES:
            arrivals = [job.decode() for job in self.connection.lrange(f"rq:queue:{name}", 0, -1)]
            ring = [tenant.decode() for tenant in self.connection.lrange(f"immunize:ring:{name}", 0, -1)]
            in_lines: dict[str, list[str]] = {}
            for tenant in "ab":
                stored = self.connection.lrange(f"immunize:line:{name}:{tenant}", 0, -1)
                in_lines[tenant] = [entry.decode().split()[0] for entry in stored]
            assert sorted(ring) == [tenant for tenant, line in in_lines.items() if line], "one turn each"
            for tenant, line in in_lines.items():
                found = line + [job for job in arrivals if self.records[job].tenant == tenant]
                assert [job for job in found if job not in self.ended] == self.lines.get((name, tenant), [])
            assert self.fair.count(name)[0] == sum(map(len, in_lines.values())) + len(arrivals)

    @invariant()
    def whatever_ended_left_nothing(self) -> None:
        open_ = sorted(set(self.records) - self.ended)
        hashes = {name.decode().removeprefix("rq:job:") for name in self.connection.keys("rq:job:*")}
        assert hashes <= set(open_)
        assert list(self.queue.carried(open_)) == [True] * len(open_)
        for job in open_:
            assert (self.fair.ahead(job) is None) == (job in self.held)

    def _line(self, job: str) -> list[str]:
        record = self.records[job]
        return self.lines.setdefault((record.priority, record.tenant), [])

    def _waiting(self, queue: Priority) -> list[str]:
        return [job for (name, _), line in self.lines.items() if name == queue for job in line]

    def _of(self, worker: str) -> list[str]:
        return [job for job, holder in self.held.items() if holder == worker]

    def _fits(self, job: str, key: str) -> bool:
        return not key or self.records[job].key == key

    def _put_back(self, jobs: list[str]) -> None:
        """To the front, one after the other. Of what is bare Redis can put back nothing: the reconciler does."""
        for job in jobs:
            del self.held[job]
            if job in self.bare:
                self.bare.remove(job)
                self.queue.enqueue(self.records[job])
                self._line(job).append(job)
            else:
                self._line(job).insert(0, job)


@pytest.mark.timeout(120)
def test_whatever_happens_every_job_is_in_one_place(
    queue: JobQueue, fair: FairQueue, waiting: Callable[..., Record]
) -> None:
    machine = type("TheseSequences", (Sequences,), {"queue": queue, "fair": fair, "make": staticmethod(waiting)})
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
