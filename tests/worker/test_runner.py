"""The worker's loop with all its threads, in this process: real queue, real store, a model that waits or breaks."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rq import SimpleWorker
from torch import Tensor

from service.contracts.errors import BadField, NotReady
from service.contracts.fair import FairQueue
from service.contracts.records import Record, now
from service.contracts.settings import Settings
from service.embedded import EmbeddedRedis
from tests.helpers import opened, wait_for
from tests.worker.deployment import PICTURE, Deployment, Gate, stop

WHITE = Image.new("RGB", PICTURE.size, (255, 255, 255))
LONG = "500"  # steps


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runner.LISTEN", 0.1)
    monkeypatch.setattr("worker.runner.PROGRESS", 0.02)


@pytest.fixture(autouse=True)
def _no_traces(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is away or is told to stop, no trace is written. Tests of bugs use `traces`."""
    yield
    traced = [record.getMessage() for record in caplog.get_records("call") if record.exc_info]
    assert not traced or "traces" in request.fixturenames, traced


@pytest.fixture
def traces() -> None:
    """For tests in which something is broken on purpose."""


@pytest.fixture
def house(settings: Settings) -> Iterator[Deployment]:
    house = Deployment(settings.model_copy(update={"batch_wait_ms": 200, "batch_max": 1}))
    yield house
    house.close()


def in_redis(house: Deployment) -> set[str]:
    return {name.decode() for name in house.connection.scan_iter()}


# jobs


def test_jobs_are_run_until_none_waits(house: Deployment) -> None:
    one = [house.submit(tenant=tenant, seed=str(seed)) for tenant in "ab" for seed in range(3)]
    other = house.submit(steps="3", priority="bulk")
    assert house.worker(batch_max=4).work(burst=True)
    for record in [*one, other]:
        house.delivered(record)
    batches = [found.report.batch for record in [*one, other] if (found := house.load(record)).report]
    assert sorted(batches) == [1, 2, 2, 4, 4, 4, 4]
    assert {house.load(record).attempts for record in [*one, other]} == {1}
    assert (house.counted("immunize_batch_size_count"), house.counted("immunize_batch_size_sum")) == (3, 7)
    assert house.counted("immunize_jobs_total", method="encoder", model="tiny", status="finished") == 7
    assert house.counted("immunize_gradient_evaluations_total", method="encoder", model="tiny") == 6 * 2 + 3
    assert in_redis(house) <= {"immunize:bell", "immunize:since", "immunize:turn", "rq:queues", "immunize:looked"} | {
        "immunize:patience",
        "rq:worker:w",
    }


def test_every_budget_and_format_of_a_batch(house: Deployment) -> None:
    jobs = [
        house.submit(epsilon=str(epsilon), format=format, seed=str(epsilon), steps="4")
        for epsilon in (2, 5)
        for format in ("png", "webp", "jpeg")
    ]
    house.worker(batch_max=6).work(burst=True)
    for record in jobs:
        file, found = opened(house.delivered(record)), house.load(record)
        assert file.format == record.plan.format.upper()
        assert found.report is not None
        assert found.report.batch == 6
        moved = np.abs(np.asarray(file.convert("RGB")).astype(int) - np.asarray(PICTURE).astype(int)).max()
        assert moved == found.report.linf_255
        if record.plan.format != "jpeg":
            assert 0 < moved <= record.plan.epsilon


def test_jobs_that_come_while_it_works(house: Deployment) -> None:
    with house.working():
        for _ in range(3):
            house.wait(house.submit())
        jobs = [house.submit() for _ in range(3)]
        for record in jobs:
            house.wait(record)
    assert house.pending() == []


def test_rqs_tools_see_it(house: Deployment) -> None:
    gate = Gate()
    house.models.on_call = gate

    def told() -> list[tuple[str, str]]:
        return [(worker.name, str(worker.get_state())) for worker in SimpleWorker.all(connection=house.connection)]

    with house.working("host-7", lease_seconds=0.5):
        wait_for(lambda: told() == [("host-7", "idle")], "it is registered")
        house.connection.flushall()
        wait_for(lambda: told() == [("host-7", "idle")], "it is registered again after a wipe")
        house.submit()
        wait_for(lambda: told() == [("host-7", "busy")], "it is seen to work")
        gate.open()
        assert house.counted("immunize_worker_last_heartbeat_seconds") > time.time() - 60
    assert told() == []
    assert "immunize:alive:host-7" not in in_redis(house)


def test_progress_is_told(house: Deployment) -> None:
    gate = Gate(after=3)
    house.models.on_call = gate
    record = house.submit(steps="10")
    with house.working():
        progress = wait_for(lambda: house.queue.progress(record.id), "progress is told")
        gate.reached.wait(10)
        progress = wait_for(
            lambda: (found := house.queue.progress(record.id)) and found.step == 3 and found, "of the latest step"
        )
        assert (progress.steps, house.load(record).status) == (10, "running")
        assert progress.loss > 0
        gate.open()
        house.wait(record)


def test_the_next_batch_is_fetched_while_one_is_under_way(house: Deployment) -> None:
    gate = Gate(after=6)
    house.models.on_call = gate
    first, second, third = (house.submit(steps="10") for _ in range(3))
    with house.working():
        assert gate.reached.wait(30)
        wait_for(lambda: house.queue.depth() == 1, "the second is in its hands")
        assert [house.load(record).status for record in (first, second, third)] == ["running", "queued", "queued"]
        gate.open()
        for record in (first, second, third):
            house.wait(record)


def test_a_result_is_stored_while_the_next_batch_is_under_way(house: Deployment) -> None:
    gate, storing, stored = Gate(after=2), threading.Event(), threading.Event()
    house.models.on_call = gate
    first, second = house.submit(), house.submit()

    def slow(key: str) -> None:
        house.store.before_put = slow
        if first.id in key and len(key.rpartition("/")[2]) == 64:
            storing.set()
            assert stored.wait(30)

    house.store.before_put = slow
    with house.working():
        assert storing.wait(30)
        assert gate.reached.wait(30), "the second is optimised meanwhile"
        assert [house.load(record).status for record in (first, second)] == ["running", "running"]
        stored.set()
        house.wait(first)
        gate.open()
        house.wait(second)


# what ends a job, and only that one


def cancel(house: Deployment, record: Record) -> None:
    """As the gateway does."""
    assert house.queue.claim(record.id, "canceled") == "canceled"
    house.records.ask_to_end(record)


def test_a_cancel_stops_its_own_job_and_no_other(house: Deployment) -> None:
    gate = Gate(after=2)
    house.models.on_call = gate
    jobs = [house.submit(seed=str(seed), steps="6") for seed in range(3)]
    with house.working(batch_max=3):
        assert gate.reached.wait(30)
        cancel(house, jobs[1])
        assert house.wait(jobs[1], "canceled").result is None, "within a step: this one has not ended"
        wait_for(lambda: not house.connection.exists(f"rq:job:{jobs[1].id}"), "Redis forgets it")
        gate.open()
        for record in (jobs[0], jobs[2]):
            found = house.wait(record)
            assert found.report is not None
            assert (found.report.batch, found.attempts) == (3, 1)
    assert house.beside(jobs[1]) == {"job.json", "image", "cancel"}
    assert house.load(jobs[1]).status == "canceled"
    assert house.pending() == []
    labels = {"method": "encoder", "model": "tiny"}
    assert house.counted("immunize_jobs_total", **labels, status="canceled") == 1
    assert house.counted("immunize_jobs_total", **labels, status="finished") == 2


def test_a_batch_of_which_nothing_is_wanted_stops_within_a_step(house: Deployment) -> None:
    gate, calls = Gate(after=2), list[int]()

    def counted(x: Tensor) -> None:
        calls.append(len(x))
        gate(x)

    house.models.on_call = counted
    jobs = [house.submit(seed=str(seed), steps=LONG) for seed in range(2)]
    with house.working(batch_max=2):
        assert gate.reached.wait(30)
        for record in jobs:
            cancel(house, record)
        for record in jobs:
            house.wait(record, "canceled")
        before = len(calls)
        gate.open()
        house.wait(house.submit(PICTURE.rotate(180), steps="1"))
    assert calls[before:] != []
    assert calls[before:].count(2) <= 1, "of the two no further step"


def test_a_cancel_while_a_batch_is_begun(house: Deployment) -> None:
    jobs = [house.submit(seed=str(seed)) for seed in range(3)]

    def meanwhile(key: str) -> None:
        if key.endswith("job.json"):
            cancel(house, jobs[1])
        else:
            house.store.before_put = meanwhile

    house.store.before_put = meanwhile
    with house.working(batch_max=3):
        house.wait(jobs[1], "canceled")
        for record in (jobs[0], jobs[2]):
            house.wait(record)
    assert house.load(jobs[1]).status == "canceled"
    assert house.pending() == []


def test_a_deadline(house: Deployment) -> None:
    house.models.on_call = lambda _: time.sleep(0.02)
    jobs = [house.submit(seed=str(seed), steps="2000") for seed in range(2)]
    brief = house.submit(steps="1")
    with house.working(batch_max=2, job_timeout=1):
        for record in jobs:
            found = house.wait(record, "failed")
            assert found.error is not None
            assert (found.error.type, found.attempts, found.deaths) == ("job-timeout", 1, 0)
            assert found.error.detail == "the job ran longer than 1 seconds; send less"
        house.wait(brief)
    assert house.pending() == []


def test_a_step_that_does_not_end(house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can stop it from inside: the process ends itself, and its jobs are taken up elsewhere."""
    ended = threading.Event()
    monkeypatch.setattr("worker.runner.STEP", 0.1)
    monkeypatch.setattr("worker.runner.os._exit", lambda status: ended.set() if status == 70 else None)
    gate = Gate()
    house.models.on_call = gate
    house.submit()
    with house.working(job_timeout=0.3, lease_seconds=0.5):
        assert gate.reached.wait(30)
        assert ended.wait(30)
        gate.open()


def is_white(x: Tensor) -> bool:
    return bool((x.mean((1, 2, 3)) > 0.9).any())


@pytest.mark.usefixtures("traces")
@pytest.mark.parametrize(
    ("error", "told", "attempts"),
    [
        (RuntimeError("a bug"), "internal", 3),
        (BadField("preset: it cannot be had", field="preset"), "invalid-field", 1),
    ],
    ids=["a bug", "its own fault"],
)
def test_one_bad_picture_in_a_batch_fails_alone(error: Exception, told: str, attempts: int, house: Deployment) -> None:
    def broken(x: Tensor) -> None:
        if is_white(x):
            raise error

    house.models.on_call = broken
    jobs = [house.submit(WHITE if seed == 1 else PICTURE, seed=str(seed)) for seed in range(3)]
    with house.working(batch_max=3):
        found = house.wait(jobs[1], "failed")
        assert found.error is not None
        assert (found.error.type, found.attempts, found.deaths) == (told, attempts, 0)
        for record in (jobs[0], jobs[2]):
            good = house.wait(record)
            assert good.report is not None
            assert (good.attempts, good.report.batch) == (1, 1)
    assert house.pending() == []
    assert house.queue.depth() == 0


@pytest.mark.usefixtures("traces")
def test_a_result_that_cannot_be_encoded_fails_alone(house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import delivery

    write = delivery.write_picture

    def broken(image: Any, picture: Any, *arguments: Any, **named: Any) -> bytes:
        if picture.pixels.getpixel((0, 0)) == (255, 255, 255):
            raise RuntimeError("a bug")
        return write(image, picture, *arguments, **named)

    monkeypatch.setattr(delivery, "write_picture", broken)
    good, bad = house.submit(), house.submit(WHITE)
    with house.working(batch_max=2):
        house.wait(good)
        assert house.wait(bad, "failed").attempts == 3
    assert house.load(good).attempts == 1


@pytest.mark.usefixtures("traces")
def test_a_record_that_cannot_be_read_stops_nobody(house: Deployment) -> None:
    broken, good = house.submit(), house.submit()
    house.store.put(f"jobs/public/{broken.id}/job.json", b"of another version")
    with house.working(batch_max=2):
        house.wait(good)
        wait_for(lambda: not house.connection.exists(f"rq:job:{broken.id}"), "it is let go")


def test_memory_that_runs_out_makes_smaller_batches_and_is_remembered(house: Deployment) -> None:
    short: list[int] = []

    def memory_for_two(x: Tensor) -> None:
        if len(x) > 2:
            short.append(len(x))
            raise torch.OutOfMemoryError("CUDA out of memory")

    house.models.on_call = memory_for_two
    jobs = [house.submit(seed=str(seed)) for seed in range(5)]
    with house.working(batch_max=5):
        for record in jobs:
            house.wait(record)
        ran_out = len(short)
        more = [house.submit(seed=str(seed)) for seed in range(5)]
        for record in more:
            house.wait(record)
    assert 0 < ran_out == len(short), "once it is known, it does not happen again"
    for record in jobs + more:
        found = house.load(record)
        assert found.report is not None
        assert (found.attempts, found.deaths, found.report.batch <= 2) == (1, 0, True)
    assert house.pending() == []


def test_memory_that_is_too_little_for_one(house: Deployment) -> None:
    def none_for_white(x: Tensor) -> None:
        if is_white(x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    house.models.on_call = none_for_white
    good, bad = house.submit(), house.submit(WHITE)
    with house.working(batch_max=2):
        house.wait(good)
        found = house.wait(bad, "failed")
        assert found.error is not None
        assert (found.error.type, found.attempts) == ("out-of-memory", 1)


def test_who_is_suspected_runs_alone(house: Deployment) -> None:
    jobs = [house.submit(seed=str(seed)) for seed in range(3)]
    house.records.save(jobs[1].model_copy(update={"status": "running", "attempts": 1}))
    house.worker(batch_max=3).work(burst=True)
    found = [house.load(record) for record in jobs]
    assert [each.report and each.report.batch for each in found] == [2, 1, 2]
    assert [(each.attempts, each.deaths) for each in found] == [(1, 0), (2, 1), (1, 0)]


# stopping


def test_sigterm_lets_the_batch_end_and_takes_nothing_new(house: Deployment) -> None:
    """The signal itself, in the main thread, as a process gets it."""
    gate = Gate(after=6)
    house.models.on_call = gate
    first, fetched, waiting = (house.submit(steps="10") for _ in range(3))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def operate() -> None:
        gate.reached.wait(30)
        wait_for(lambda: house.queue.depth() == 1, "the next one is fetched")
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: house.load(first).status == "running", "it goes on")
        gate.open()

    operator = threading.Thread(target=operate)
    operator.start()
    try:
        assert house.worker(drain_seconds=30).work()
    finally:
        gate.open()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        operator.join(30)
    assert house.load(first).status == "finished"
    assert house.pending() == unordered(fetched, waiting)
    for place, record in enumerate((fetched, waiting)):
        found = house.load(record)
        assert (found.status, found.attempts, found.deaths, found.begun) == ("queued", 0, 0, [])
        assert house.queue.position(record.id) == place, "what was fetched is first again"
    assert not house.connection.exists("immunize:held")
    assert not house.connection.exists("immunize:alive:w")


def unordered(*records: Record) -> list[str]:
    return sorted(record.id for record in records)


@pytest.mark.parametrize("how", ["no time", "a second signal"])
def test_a_batch_that_takes_too_long_is_broken_off_and_begun_again_elsewhere(how: str, house: Deployment) -> None:
    gate = Gate(after=2)
    house.models.on_call = gate
    jobs = [house.submit(seed=str(seed), steps="20") for seed in range(2)]
    began = time.monotonic()
    with house.working(batch_max=2, drain_seconds=0 if how == "no time" else 600) as worker:
        assert gate.reached.wait(30)
        stop(worker)
        if how == "a second signal":
            stop(worker)
        gate.open()
    assert time.monotonic() - began < 60
    for record in jobs:
        found = house.load(record)
        assert (found.status, found.attempts, found.deaths, len(found.begun)) == ("queued", 0, 0, 1)
    assert list(house.queue.carried([record.id for record in jobs])) == [True, True]
    assert not house.connection.exists("immunize:held")
    house.worker("other", batch_max=2).work(burst=True)
    for record in jobs:
        house.delivered(record)
        found = house.load(record)
        assert (found.attempts, [each.worker for each in found.begun]) == (1, ["w", "other"])
        assert found.report is not None
        assert found.report.batch == 2, "nobody suspects them"


def test_an_idle_worker_stops_at_once(house: Deployment) -> None:
    with house.working() as worker:
        wait_for(lambda: SimpleWorker.all(connection=house.connection), "it is there")
        began = time.monotonic()
        stop(worker)
    assert time.monotonic() - began < 10
    assert SimpleWorker.all(connection=house.connection) == []


def test_a_worker_that_stops_while_the_store_is_away_gives_its_jobs_back(house: Deployment) -> None:
    gate = Gate(after=1)
    house.models.on_call = gate
    record = house.submit()
    with house.working(drain_seconds=0.5) as worker:
        assert gate.reached.wait(30)
        house.store.away = True
        gate.open()
        wait_for(lambda: house.store.refused > 1, "it tries to store the result")
        stop(worker)
    house.store.away = False
    assert house.load(record).status == "running"
    assert house.queue.position(record.id) == 0
    house.worker("other").work(burst=True)
    house.delivered(record)
    assert house.load(record).attempts == 2


# outages


@pytest.mark.parametrize("when", ["fetch", "begin", "store"])
def test_the_store_is_away_for_a_while(when: str, house: Deployment) -> None:
    gate = Gate(after=1)
    if when == "store":
        house.models.on_call = gate
    record = house.submit()
    if when == "fetch":
        house.store.away = True
    if when == "begin":
        house.store.before_put = lambda _: setattr(house.store, "away", True)
    with house.working():
        if when == "store":
            assert gate.reached.wait(30)
            house.store.away = True
            gate.open()
        wait_for(lambda: house.store.refused >= 3, "it was tried several times")
        assert house.queue.depth() == 0, "a worker has it all the while"
        assert list(house.queue.carried([record.id])) == [True]
        house.store.away = False
        house.wait(record)
        house.wait(house.submit())
    house.delivered(record)
    found = house.load(record)
    assert (found.attempts, found.deaths, len(found.begun)) == (1, 0, 1), "it was done once"


def test_the_disk_is_full_for_a_while(house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, refused = Gate(after=1), list[object]()
    house.models.on_call = gate
    jobs = [house.submit(seed=str(seed)) for seed in range(2)]

    def full(*given: object) -> None:
        refused.append(given)
        raise OSError(28, "No space left on device")

    with house.working(batch_max=2):
        assert gate.reached.wait(30)
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            gate.open()
            wait_for(lambda: len(refused) >= 4, "it was tried several times")
            assert [house.load(record).status for record in jobs] == ["running", "running"]
        for record in jobs:
            house.wait(record)
    for record in jobs:
        house.delivered(record)
        assert house.load(record).attempts == 1
    staged = Path(house.settings.store_url.removeprefix("file://")) / ".staging"
    assert list(staged.iterdir()) == [], "nothing half-written is left"


@pytest.fixture
def own_redis(house: Deployment, tmp_path: Path) -> Iterator[tuple[Deployment, EmbeddedRedis]]:
    """A deployment whose Redis can be stopped and started."""
    with EmbeddedRedis(tmp_path / "r") as server:
        house = Deployment(house.settings.model_copy(update={"redis_url": server.url}))
        yield house, server
        house.close()


def restart(server: EmbeddedRedis, meanwhile: float) -> None:
    server.__exit__(None, None, None)
    time.sleep(meanwhile)  # an outage lasts
    server.__enter__()


@pytest.mark.parametrize("when", ["idle", "running", "storing"])
def test_redis_is_away_for_a_while(when: str, own_redis: tuple[Deployment, EmbeddedRedis]) -> None:
    house, server = own_redis
    gate = Gate(after=2)
    with house.working():
        if when == "idle":
            house.wait(house.submit())
            restart(server, 0.5)
            record = house.submit()
        else:
            house.models.on_call = gate
            record = house.submit(steps="6")
            assert gate.reached.wait(30)
            server.__exit__(None, None, None)
            if when == "storing":
                gate.open()
                house.wait(record)  # the record is the truth: it needs no Redis
            else:
                time.sleep(0.5)
            server.__enter__()
            gate.open()
        house.wait(record)
        house.wait(house.submit())
        wait_for(lambda: not house.connection.exists("immunize:held"), "what has ended is let go")
        assert not house.connection.exists(f"rq:job:{record.id}")
    house.delivered(record)
    found = house.load(record)
    assert (found.attempts, found.deaths) == (1, 0)


def test_redis_is_wiped_while_it_works(house: Deployment) -> None:
    gate = Gate(after=2)
    house.models.on_call = gate
    running, waiting = house.submit(steps="6"), house.submit()
    for record in (running, waiting):
        house.records.save(record.model_copy(update={"created_at": now() - timedelta(minutes=1)}))
    with house.working(lease_seconds=0.5, reconcile_seconds=0.1):
        assert gate.reached.wait(30)
        house.connection.flushall()
        wait_for(lambda: house.connection.hexists("immunize:held", running.id), "it says again what it holds")
        wait_for(lambda: house.queue.depth() == 1, "what waited is enqueued again")
        gate.open()
        for record in (running, waiting):
            house.wait(record)
    for record in (running, waiting):
        house.delivered(record)
        assert (house.load(record).attempts, house.load(record).deaths) == (1, 0)


# cut off


def test_what_another_worker_has_begun_meanwhile_is_left_to_it(house: Deployment) -> None:
    gate = Gate(after=2)
    house.models.on_call = gate
    record = house.submit(steps=LONG)
    fair = FairQueue(house.connection, 15)
    with house.working(lease_seconds=0.5) as worker:
        assert gate.reached.wait(30)
        house.connection.delete("immunize:alive:w")  # it was cut off for longer than a lease
        assert fair.reap(at_once=True) in ([record.id], []), "it may just have said that it lives"
        house.connection.hset("immunize:held", record.id, "other")
        house.queue.keep("other", [record.id])
        work = house.begun(record, "other")
        wait_for(lambda: not worker._hands.ids(), "it hears that it has lost the job")
        gate.open()
        house.wait(house.submit(), "finished")
        assert house.load(record).status == "running", "it delivered nothing"
        engine = house.engine("other")
        (made,) = engine.optimize([work], lambda *_: None)
        engine.finish(work, engine.encode(work, made))
    house.delivered(record)
    found = house.load(record)
    assert [each.worker for each in found.begun] == ["w", "other"]
    assert (found.attempts, found.deaths) == (2, 1)


def test_what_nobody_took_meanwhile_is_its_own_again(house: Deployment) -> None:
    gate = Gate(after=2)
    house.models.on_call = gate
    record = house.submit(steps="6")
    fair = FairQueue(house.connection, 15)
    with house.working(lease_seconds=0.5):
        assert gate.reached.wait(30)
        house.connection.delete("immunize:alive:w")
        fair.reap(at_once=True)
        wait_for(lambda: house.connection.hget("immunize:held", record.id) == b"w", "it says that it holds it")
        assert house.queue.depth() == 0
        gate.open()
        house.wait(record)
    house.delivered(record)
    assert (house.load(record).attempts, house.load(record).deaths) == (1, 0)


def test_a_dead_workers_jobs_are_taken_up(house: Deployment) -> None:
    """By whoever looks: here there is only one."""
    jobs = [house.submit(seed=str(seed)) for seed in range(2)]
    fair = FairQueue(house.connection, 0.3)
    fair.take("dead", 2, "")
    house.begun(jobs[0], "dead")
    with house.working(lease_seconds=0.5):
        for record in jobs:
            house.wait(record)
    found = [house.load(record) for record in jobs]
    assert [(each.attempts, each.deaths) for each in found] == [(2, 1), (1, 0)]
    assert house.counted("immunize_job_recoveries_total") == 2


# clocks


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_changes_nothing(days: int, house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are counted by Redis, deadlines by a clock that nobody sets."""
    gate = Gate(after=2)
    house.models.on_call = gate
    record = house.submit(steps="6")
    real = time.time
    with house.working(lease_seconds=0.5, reconcile_seconds=0.1, job_timeout=60):
        assert gate.reached.wait(30)
        for module in ("worker.jobs", "service.contracts.queue", "service.contracts.reconcile"):
            monkeypatch.setattr(f"{module}.now", lambda: now() + timedelta(days=days))
        monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)
        before = house.connection.pttl("immunize:alive:w")
        wait_for(lambda: house.connection.pttl("immunize:alive:w") > before - 1, "it is seen to live")
        assert house.connection.hget("immunize:held", record.id) == b"w"
        gate.open()
        house.wait(record)
        house.wait(house.submit())
    assert (house.load(record).attempts, house.load(record).deaths) == (1, 0)
    house.delivered(record)


# its threads


@pytest.mark.usefixtures("traces")
def test_a_thread_that_meets_a_bug_goes_on(house: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    beats: list[int] = []

    def broken() -> None:
        beats.append(1)
        if len(beats) == 1:
            raise RuntimeError("a bug")

    worker = house.worker(on_beat=broken, lease_seconds=0.5)
    thread = threading.Thread(target=worker.work)
    thread.start()
    wait_for(lambda: len(beats) > 2, "it says again that it lives")
    house.wait(house.submit())
    stop(worker)
    thread.join(30)
    assert [record.message for record in caplog.records if record.exc_info] == ["beat failed"]


def test_what_is_away_is_told_in_a_line(house: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with house.working(lease_seconds=0.5):
        house.wait(house.submit())
        monkey = pytest.MonkeyPatch()

        def away(*_: object) -> None:
            raise NotReady("the queue cannot be used just now; try again")

        with monkey.context() as patched:
            for name in ("take", "keep", "claimed", "reap"):
                patched.setattr(type(house.queue), name, away)
            caplog.clear()
            wait_for(lambda: len(caplog.records) > 5, "it is told")
        house.wait(house.submit())
    assert {record.levelname for record in caplog.records} <= {"WARNING", "INFO"}
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_what_it_lacks_is_announced(house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.models, "missing", lambda: {"absent": "put it there"})
    with house.working():
        wait_for(lambda: house.queue.missing_models() == {"absent": "put it there"}, "it is told")
    assert house.queue.missing_models() == {}
