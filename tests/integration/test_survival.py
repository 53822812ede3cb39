"""Whatever is killed or wiped: every job that got a 202 comes to its end, and nothing is left running."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from service.client import Refused
from service.contracts.schemas import Job
from tests.helpers import opened, wait_for
from tests.integration.served import Served

LONG = {"steps": 500, "models": "tiny"}  # some seconds
SHORT = {"steps": 2, "models": "tiny"}
BOUND = 100.0

Start = Callable[[], Served]


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Any:
    """Starts the service, and again in the same folder; in the end nothing of any of them runs."""
    begun: list[Served] = []

    def started() -> Served:
        begun.append(Served(tmp_path / "data", environ | {"IMMUNIZE_LEASE_SECONDS": "3"}))
        return begun[-1]

    yield started
    try:
        begun[-1].stop()
        for served in begun:
            wait_for(lambda served=served: not served.processes(), "all processes have gone", seconds=BOUND)  # type: ignore[misc]
            assert "Traceback" not in served.told
    finally:
        for served in begun:
            served.__exit__()


def begun(served: Served, job: Job) -> Job:
    """Wait until a worker is in the midst of the job."""

    def steps() -> Job | None:
        seen = served.client.job(job.id)
        assert seen.status in {"queued", "running"}, "it was over too soon for this test"
        return seen if seen.status == "running" and seen.progress and seen.progress.step else None

    return wait_for(steps, "the job is under way")  # type: ignore[no-any-return]


def all_finish(served: Served, jobs: list[Job], size: tuple[int, int]) -> list[Job]:
    done = [served.client.wait(job.id, timeout=BOUND) for job in jobs]
    for job in done:
        assert opened(served.client.image(job.id)).size == size
        assert job.report is not None
        assert job.report.linf_255 <= job.report.epsilon
    return done


@pytest.mark.parametrize("how", ["stop", "kill", "kill with its Redis"])
def test_the_service_ends_and_begins_again(how: str, start: Start, image: bytes, photograph: Image.Image) -> None:
    first = start()
    jobs = [first.client.submit(image, **LONG)] + [first.client.submit(image, **SHORT) for _ in range(4)]
    begun(first, jobs[0])
    if how == "stop":
        assert first.stop() == 0
        assert first.processes() == []
    else:
        if how != "kill":
            (server,) = first.processes("redis-server")
            os.kill(server, signal.SIGKILL)
        first.kill()
    second = start()
    done = all_finish(second, jobs, photograph.size)
    assert max(job.attempts for job in done) <= (1 if how == "stop" else 2)


def test_an_idle_worker_that_nothing_is_left_of_goes(start: Start, image: bytes) -> None:
    served = start()
    served.client.wait(served.client.submit(image, **SHORT).id, timeout=BOUND)
    (server,) = served.processes("redis-server")
    os.kill(server, signal.SIGKILL)
    served.kill()
    wait_for(lambda: not served.processes(), "the worker has gone", seconds=BOUND)


def test_what_was_canceled_stays_so(start: Start, image: bytes, photograph: Image.Image) -> None:
    first = start()
    running, waiting = first.client.submit(image, **LONG), first.client.submit(image, **SHORT)
    begun(first, running)
    other = first.client.submit(image, **SHORT)
    for job in (running, waiting):
        first.client.cancel(job.id)
    first.kill()
    second = start()
    all_finish(second, [other], photograph.size)
    for job in (running, waiting):
        wait_for(lambda job=job: second.client.job(job.id).status == "canceled", "it is canceled")  # type: ignore[misc]
        assert second.client.job(job.id).result is None


def test_the_store_is_away_for_a_while(start: Start, image: bytes, photograph: Image.Image) -> None:
    served = start()
    jobs = [served.client.submit(image, **LONG), served.client.submit(image, **SHORT)]
    begun(served, jobs[0])
    store = served.data / "store"
    away = store.rename(store.with_name("away"))
    with pytest.raises(Refused) as caught:
        served.client.submit(image, **SHORT)
    assert caught.value.problem.status == 503
    wait_for(lambda: served.told.count("the store cannot be used just now") > 2, "it was tried", seconds=BOUND)
    away.rename(store)
    done = all_finish(served, jobs, photograph.size)
    assert [job.attempts for job in done] == [1, 1]


def test_a_worker_is_killed(start: Start, image: bytes, photograph: Image.Image) -> None:
    served = start()
    jobs = [served.client.submit(image, **LONG), served.client.submit(image, **SHORT)]
    begun(served, jobs[0])
    (worker,) = served.processes("--parent")
    os.kill(worker, signal.SIGKILL)
    done = all_finish(served, jobs, photograph.size)
    assert [job.attempts for job in done] == [2, 1]
    assert served.processes("--parent") not in ([], [worker])
    assert "a worker ended with status -9; beginning another" in served.told


def test_redis_is_wiped(start: Start, image: bytes, photograph: Image.Image) -> None:
    served = start()
    jobs = [served.client.submit(image, **LONG)] + [served.client.submit(image, **SHORT) for _ in range(2)]
    begun(served, jobs[0])
    with redis.Redis.from_url(f"unix://{served.data.resolve()}/redis/redis.sock") as connection:
        connection.flushall()
    all_finish(served, jobs, photograph.size)
