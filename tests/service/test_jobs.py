"""GET /jobs/{id}, and the picture of a job that a worker has done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageChops

from service.contracts.queue import JobQueue, connect
from service.contracts.records import Record, Records
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
        JobQueue(connection, settings).set_progress(job["id"], Progress(step=1, steps=2, loss=0.5))
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
    "psnr_db", "ssim", "loss_initial", "loss_final", "gradient_evaluations", "seconds", "device", "version",
}  # fmt: skip
JOB = {
    "id", "status", "method", "models", "created_at", "started_at", "ended_at", "progress", "queue_position",
    "attempts", "error", "result", "report", "links", "metadata",
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
