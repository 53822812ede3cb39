"""The client, against a gateway that really listens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

from service.app import create_app
from service.client import Client, JobFailed, Refused
from service.contracts.records import Records
from service.contracts.schemas import Job, JobError
from service.contracts.settings import Settings
from service.contracts.store import open_store
from service.listen import address, listen
from tests.burst import burst
from tests.helpers import opened, png, wait_for


@pytest.fixture
def served(settings: Settings) -> Iterator[str]:
    """The address of a gateway in a thread."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started, "the gateway listens")
            yield address(listener)
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture
def client(served: str) -> Iterator[Client]:
    with Client(served) as client:
        yield client


@pytest.fixture
def records(settings: Settings) -> Records:
    return Records(open_store(settings))


def test_a_picture_there_and_back(client: Client, settings: Settings, photograph: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(png(photograph))
    mask = Image.new("L", photograph.size)
    mask.paste(255, (0, 0, 40, 80))
    job = client.submit(file, mask=png(mask), metadata={"album": 7}, models="tiny", steps=2, seed=3)
    assert (job.status, job.metadata, job.links.itself) == ("queued", {"album": 7}, f"/jobs/{job.id}")
    burst(settings)
    seen: list[Job] = []
    done = client.wait(job.id, timeout=10, on_job=seen.append)
    assert (done.status, seen[-1]) == ("finished", done)
    assert done.report is not None
    assert (done.report.seed, done.report.steps, done.report.mask) == (3, 2, True)
    assert opened(client.image(job.id)).size == photograph.size


def test_immunize_is_all_of_it(client: Client, records: Records, settings: Settings, image: bytes) -> None:
    made: list[bytes] = []
    thread = threading.Thread(target=lambda: made.append(client.immunize(image, models="tiny", steps=1)))
    thread.start()
    wait_for(lambda: list(records.pending()), "the job waits")
    burst(settings)
    thread.join(timeout=30)
    assert opened(made[0]).format == "PNG"


def test_whether_it_is_ready(client: Client) -> None:
    assert client.ready()


def test_what_the_gateway_refuses(client: Client, image: bytes) -> None:
    with pytest.raises(Refused) as caught:
        client.submit(image, epsilon=0)
    problem = caught.value.problem
    assert (problem.status, problem.type) == (422, "urn:immunize:invalid-field")
    assert problem.errors is not None
    assert problem.errors[0].field == "epsilon"
    assert problem.detail in str(caught.value)


def test_jobs_that_are_not_there_or_not_done(client: Client, image: bytes) -> None:
    with pytest.raises(Refused) as caught:
        client.job("0" * 32)
    assert caught.value.problem.status == 404
    with pytest.raises(Refused) as caught:
        client.image(client.submit(image).id)
    assert caught.value.problem.status == 409


def test_a_job_that_failed(client: Client, records: Records, image: bytes) -> None:
    job = client.submit(image)
    record = records.load("public", job.id)
    record.error = JobError(type="out-of-memory", detail="send a smaller picture")
    records.end(record, "failed")
    with pytest.raises(JobFailed, match="send a smaller picture") as caught:
        client.wait(job.id, timeout=10)
    assert caught.value.job.status == "failed"


def test_a_job_that_was_canceled(client: Client, records: Records, image: bytes) -> None:
    job = client.submit(image)
    records.end(records.load("public", job.id), "canceled")
    with pytest.raises(JobFailed, match="canceled"):
        client.wait(job.id, timeout=10)


def test_a_job_that_takes_too_long(client: Client, image: bytes) -> None:
    job = client.submit(image)
    with pytest.raises(TimeoutError, match=f"job {job.id} is still queued after 0.1 seconds"):
        client.wait(job.id, timeout=0.1, poll=0.02)


def test_where_nobody_listens() -> None:
    with listen("127.0.0.1", 0) as listener:
        nobody = address(listener)
    with Client(nobody) as client:
        assert not client.ready()
