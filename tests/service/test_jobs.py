"""GET /jobs/{id}, the picture of a job that a worker has done, and POST /jobs/{id}/cancel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageChops

from service.contracts.queue import JobQueue, connect
from service.contracts.records import Record, Records, place
from service.contracts.schemas import JobError, Progress
from service.contracts.settings import Settings
from service.contracts.store import open_store
from tests.burst import burst
from tests.helpers import opened
from tests.service.test_immunize import refused


@pytest.fixture
def job(gateway: TestClient, image: bytes) -> dict[str, Any]:
    """A job that waits."""
    fields = {"models": "tiny", "steps": "2", "seed": "5", "metadata": '{"album": 7}'}
    answer = gateway.post("/immunize", files={"image": ("photo.png", image)}, data=fields)
    assert answer.status_code == 202
    return dict(answer.json())


@pytest.fixture
def record(job: dict[str, Any], settings: Settings) -> tuple[Records, Record]:
    records = Records(open_store(settings))
    return records, records.load("public", job["id"])


ABSENT = ["0" * 32, "x", "A" * 32, "..%2F..%2Fetc", "%00", "0" * 33, "job.json"]


@pytest.mark.parametrize("job_id", ABSENT)
@pytest.mark.parametrize("tail", ["", "/image"])
def test_a_job_that_is_not_there(job_id: str, tail: str, gateway: TestClient) -> None:
    refused(gateway.get(f"/jobs/{job_id}{tail}"), 404)


def test_nothing_at_an_address(gateway: TestClient) -> None:
    assert "/nowhere" in refused(gateway.get("/nowhere"), 404)
    refused(gateway.get("/immunize"), 405)


def test_the_etag_holds_until_something_happens(gateway: TestClient, job: dict[str, Any], settings: Settings) -> None:
    here = job["links"]["self"]
    first = gateway.get(here)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = gateway.get(here, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert gateway.get(here, headers={"If-None-Match": '"other"'}).status_code == 200
    with connect(settings) as connection:
        JobQueue(connection, settings).set_progress({job["id"]: Progress(step=1, steps=2, loss=0.5)})
    changed = gateway.get(here, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.json()["progress"] == {"step": 1, "steps": 2, "loss": 0.5}


@pytest.mark.parametrize("status", ["queued", "running", "failed", "canceled"])
def test_a_job_without_a_result_has_no_image(status: Any, gateway: TestClient, record: tuple[Records, Record]) -> None:
    records, found = record
    found.status = status
    records.save(found)
    assert status in refused(gateway.get(f"/jobs/{found.id}/image"), 409)


def test_a_failed_job_says_why(gateway: TestClient, record: tuple[Records, Record]) -> None:
    records, found = record
    found.error = JobError(type="out-of-memory", detail="the device ran out of memory; send a smaller picture")
    records.end(found, "failed")
    job = gateway.get(f"/jobs/{found.id}").json()
    assert (job["status"], job["error"]) == ("failed", found.error.model_dump())
    assert job["ended_at"]
    assert (job["progress"], job["queue_position"], job["result"]) == (None, None, None)


REPORT = {
    "method", "preset", "models", "norm", "epsilon", "steps", "seed", "target", "mask", "width", "height", "linf_255",
    "psnr_db", "ssim", "loss_initial", "loss_final", "gradient_evaluations", "seconds", "batch", "device", "version",
}  # fmt: skip
JOB = {
    "id", "status", "priority", "method", "models", "created_at", "started_at", "ended_at", "progress",
    "queue_position", "attempts", "error", "result", "report", "links", "metadata",
}  # fmt: skip


def test_a_job_that_is_done(
    gateway: TestClient, job: dict[str, Any], settings: Settings, photograph: Image.Image
) -> None:
    counted = burst(settings)
    done = gateway.get(job["links"]["self"]).json()
    assert done["status"] == "finished", done
    assert set(done) >= JOB
    assert set(done["report"]) >= REPORT
    assert (done["attempts"], done["metadata"], done["error"]) == (1, {"album": 7}, None)
    assert job["created_at"] == done["created_at"] <= done["started_at"] <= done["ended_at"]

    answer = gateway.get(done["links"]["image"])
    assert answer.status_code == 200
    assert done["result"] == {
        "url": done["links"]["image"],
        "sha256": hashlib.sha256(answer.content).hexdigest(),
        "content_type": answer.headers["content-type"],
        "bytes": len(answer.content),
    }
    delivered = opened(answer.content)
    assert (delivered.format, delivered.size, delivered.mode) == ("PNG", photograph.size, "RGB")
    largest = max(high for _, high in ImageChops.difference(delivered, photograph).getextrema())
    assert 0 < largest == done["report"]["linf_255"] <= done["report"]["epsilon"]
    told = {name: done["report"][name] for name in ("method", "models", "steps", "seed", "mask", "width", "height")}
    assert told == {
        "method": "encoder",
        "models": ["tiny"],
        "steps": 2,
        "seed": 5,
        "mask": False,
        "width": 96,
        "height": 80,
    }
    again = gateway.get(done["links"]["image"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    labels = {"method": "encoder", "model": "tiny", "status": "finished"}
    assert counted.get_sample_value("immunize_jobs_total", labels) == 1


def test_a_job_that_runs_out_of_memory_fails_plainly_and_the_next_one_works(
    gateway: TestClient, settings: Settings, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tests.worker.conftest import SmallEditor

    edit, calls = SmallEditor.edit, []

    def short_of_memory(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return edit(*given)

    monkeypatch.setattr(SmallEditor, "edit", short_of_memory)
    fields = {"method": "diffusion", "models": "painter", "steps": "3"}
    jobs = [gateway.post("/immunize", files={"image": ("a", image)}, data=fields).json() for _ in range(2)]
    counted = burst(settings)
    failed, done = (gateway.get(job["links"]["self"]).json() for job in jobs)
    assert (failed["status"], failed["error"]["type"], failed["attempts"]) == ("failed", "out-of-memory", 1)
    assert failed["error"]["detail"].startswith("the device ran out of memory; ")
    assert (done["status"], done["report"]["gradient_evaluations"]) == ("finished", 3)
    for status in ("failed", "finished"):
        labels = {"method": "diffusion", "model": "painter", "status": status}
        assert counted.get_sample_value("immunize_jobs_total", labels) == 1


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_the_picture_comes_in_the_format_that_was_asked_for(
    format: str, gateway: TestClient, settings: Settings, image: bytes
) -> None:
    fields = {"models": "tiny", "method": "noise", "format": format}
    job = gateway.post("/immunize", files={"image": ("a", image)}, data=fields).json()
    burst(settings)
    answer = gateway.get(job["links"]["image"])
    assert answer.headers["content-type"] == f"image/{format}"
    assert opened(answer.content).format == format.upper()


def test_a_presigned_address_where_the_operator_wants_it(
    open_gateway: Callable[..., TestClient], s3: Callable[..., Settings], settings: Settings, image: bytes
) -> None:
    bucket = s3("prefix").model_dump(include={"store_url", "s3_endpoint_url", "s3_region"})
    gateway = open_gateway(**bucket, presign_seconds=60)
    job = gateway.post("/immunize", files={"image": ("a", image)}, data={"models": "tiny", "steps": "1"}).json()
    burst(settings.model_copy(update=bucket))
    answer = gateway.get(job["links"]["image"])
    assert answer.status_code == 307
    data = httpx2.get(answer.headers["location"])
    result = gateway.get(job["links"]["self"]).json()["result"]
    assert data.headers["content-type"] == "image/png"
    assert hashlib.sha256(data.content).hexdigest() == result["sha256"]


@pytest.mark.parametrize("changed", [{"redis_url": "unix:///nowhere/redis.sock"}], ids=["redis away"])
def test_a_finished_job_can_be_fetched_without_redis(
    changed: dict[str, str],
    open_gateway: Callable[..., TestClient],
    job: dict[str, Any],
    settings: Settings,
) -> None:
    burst(settings)
    gateway = open_gateway(**changed)
    assert gateway.get(job["links"]["self"]).json()["status"] == "finished"
    assert gateway.get(job["links"]["image"]).status_code == 200


def test_a_waiting_job_without_redis(open_gateway: Callable[..., TestClient], job: dict[str, Any]) -> None:
    answer = open_gateway(redis_url="unix:///nowhere/redis.sock").get(job["links"]["self"])
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


# canceling


@pytest.fixture
def queue(settings: Settings) -> Iterator[JobQueue]:
    with connect(settings) as connection:
        yield JobQueue(connection, settings)


def beside(settings: Settings, job_id: str) -> set[str]:
    folder = Path(settings.store_url.removeprefix("file://")) / f"jobs/public/{job_id}"
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("attempts", [0, 1], ids=["new", "begun before"])
def test_a_job_that_waits_is_canceled_at_once_and_never_runs(
    attempts: int, gateway: TestClient, record: tuple[Records, Record], settings: Settings, queue: JobQueue
) -> None:
    records, found = record
    if attempts:
        found.attempts = attempts
        records.save(found)
        records.store.put(place(found, "1" * 64), b"the result of a worker that died just then")
    answer = gateway.post(f"/jobs/{found.id}/cancel")
    assert answer.status_code == 202
    job = answer.json()
    assert (job["status"], job["progress"], job["queue_position"], job["result"]) == ("canceled", None, None, None)
    assert job["ended_at"]
    assert job == gateway.get(f"/jobs/{found.id}").json()
    assert list(records.pending()) == []
    assert queue.depth() == 0
    assert not list(queue.connection.scan_iter(f"*{found.id}*")), "nothing of it is left in Redis"
    counted = burst(settings)
    assert counted.get_sample_value("immunize_batch_size_count") == 0
    assert beside(settings, found.id) == {"job.json", "image", "cancel"}
    assert gateway.get(f"/jobs/{found.id}").json() == job


def test_a_job_that_a_worker_has_is_asked_to_end(
    gateway: TestClient, record: tuple[Records, Record], queue: JobQueue
) -> None:
    records, found = record
    queue.take("w", 1)
    for _ in range(2):  # asking twice is asking once
        answer = gateway.post(f"/jobs/{found.id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        assert queue.claimed([found.id]) == ["canceled"], "its worker hears of it"
        assert records.asked_to_end(found), "and whoever has it after a wipe"
    assert queue.connection.hget("immunize:held", found.id) == b"w"
    assert list(records.pending()) == [("public", found.id)]


def test_a_job_that_was_asked_to_end_ends_whatever_becomes_of_redis(
    gateway: TestClient, record: tuple[Records, Record], settings: Settings, queue: JobQueue
) -> None:
    records, found = record
    queue.take("dead", 1)
    assert gateway.post(f"/jobs/{found.id}/cancel").status_code == 202
    queue.connection.flushall()
    queue.enqueue(found)
    burst(settings)
    assert records.load("public", found.id).status == "canceled"
    assert list(records.pending()) == []


@pytest.mark.parametrize("status", ["finished", "failed", "canceled"])
def test_a_job_that_has_ended_cannot_be_canceled(
    status: Any, gateway: TestClient, record: tuple[Records, Record], queue: JobQueue
) -> None:
    records, found = record
    records.end(found, status)
    answer = gateway.post(f"/jobs/{found.id}/cancel")
    assert refused(answer, 409) == f"the job is {status}; there is nothing left to cancel"
    assert answer.json()["type"] == "urn:immunize:already-ended"
    assert queue.claimed([found.id]) == [None]
    assert not records.asked_to_end(found)


def test_a_job_that_is_being_delivered_cannot_be_canceled(
    gateway: TestClient, record: tuple[Records, Record], queue: JobQueue
) -> None:
    records, found = record
    assert queue.claim(found.id, "finished") == "finished"
    assert "ending just now" in refused(gateway.post(f"/jobs/{found.id}/cancel"), 409)
    assert not records.asked_to_end(found)


@pytest.mark.parametrize(("status", "code"), [("finished", 409), ("failed", 409), ("canceled", 202)])
def test_a_job_that_ends_while_it_is_being_canceled(
    status: Any, code: int, gateway: TestClient, record: tuple[Records, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker ended it and let go of it in Redis, between the two looks. A cancel that was heard is a cancel."""
    records, found = record
    claim = JobQueue.claim

    def slow(queue: JobQueue, job_id: str, end: Any) -> Any:
        records.end(found, status)
        return claim(queue, job_id, end)

    monkeypatch.setattr(JobQueue, "claim", slow)
    answer = gateway.post(f"/jobs/{found.id}/cancel")
    assert answer.status_code == code
    assert answer.json()["status"] == (code if code == 409 else status)
    assert not records.asked_to_end(found)
    assert records.load("public", found.id).status == status


@pytest.mark.parametrize("job_id", ABSENT)
def test_a_job_that_is_not_there_cannot_be_canceled(job_id: str, gateway: TestClient) -> None:
    refused(gateway.post(f"/jobs/{job_id}/cancel"), 404)


def test_canceling_is_asked_for_with_post(gateway: TestClient, job: dict[str, Any]) -> None:
    refused(gateway.get(job["links"]["cancel"]), 405)
    assert gateway.post(job["links"]["cancel"]).status_code == 202


@pytest.mark.parametrize("away", ["redis", "store"])
def test_a_cancel_that_cannot_be_kept_is_not_promised(
    away: str,
    open_gateway: Callable[..., TestClient],
    record: tuple[Records, Record],
    settings: Settings,
    queue: JobQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, found = record
    gateway = open_gateway(redis_url="unix:///nowhere/redis.sock") if away == "redis" else open_gateway()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if away == "store":
            patched.setattr("os.fsync", full)
        answer = gateway.post(f"/jobs/{found.id}/cancel")
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert not records.asked_to_end(found)
    assert queue.depth() == 1
    if away == "store":  # and asked again once it can be
        assert gateway.post(f"/jobs/{found.id}/cancel").json()["status"] == "canceled"
