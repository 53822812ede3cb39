"""`sizes`: several results of one upload, each immunized at its own size, in one job."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageChops

from service.contracts.pictures import read_picture
from service.contracts.queue import JobQueue, connect
from service.contracts.records import Records
from service.contracts.resize import resized, resized_mask
from service.contracts.settings import Settings
from service.contracts.store import open_store
from tests import tagged
from tests.burst import burst
from tests.helpers import opened, png
from tests.service.test_immunize import refused, stored

QUICK = {"models": "tiny", "steps": "2", "seed": "5"}


def sent(gateway: TestClient, image: bytes, mask: bytes | None = None, **fields: str) -> dict[str, Any]:
    files = {"image": ("a", image)} | ({} if mask is None else {"mask": ("b", mask)})
    answer = gateway.post("/immunize", files=files, data=QUICK | fields)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_every_size_is_immunized_at_its_own_size(gateway: TestClient, settings: Settings, image: bytes) -> None:
    job = sent(gateway, image, sizes="32,64w,original,64x64")
    assert job["renditions"] == []
    counted = burst(settings)
    done = gateway.get(job["links"]["self"]).json()
    assert done["status"] == "finished", done
    told = {each["name"]: (each["width"], each["height"]) for each in done["renditions"]}
    assert told == {"32": (32, 27), "64w": (64, 53), "original": (96, 80), "64x64": (64, 53)}
    for each in done["renditions"]:
        answer = gateway.get(each["url"])
        assert (len(answer.content), hashlib.sha256(answer.content).hexdigest()) == (each["bytes"], each["sha256"])
        assert answer.headers["content-type"] == each["content_type"] == "image/png"
        made, report = opened(answer.content), each["report"]
        original = resized(read_picture(image, max_pixels=10**6), (each["width"], each["height"])).pixels
        assert made.size == original.size == (report["width"], report["height"])
        largest = max(high for _, high in ImageChops.difference(made, original).getextrema())
        assert 0 < largest == report["linf_255"] <= report["epsilon"]
        assert report["loss_final"] < report["loss_initial"]
        assert report["gradient_evaluations"] == 2
        again = gateway.get(each["url"], headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    assert gateway.get(done["links"]["image"]).content == gateway.get(f"{done['links']['image']}?size=original").content
    assert done["report"] == next(each["report"] for each in done["renditions"] if each["name"] == "original")
    same = [each["sha256"] for each in done["renditions"] if each["name"].startswith("64")]
    assert same[0] == same[1], "one size under two names is made once"
    assert counted.get_sample_value("immunize_gradient_evaluations_total", {"method": "encoder", "model": "tiny"}) == 6


def test_a_rendition_is_what_a_job_of_that_size_makes(gateway: TestClient, settings: Settings, image: bytes) -> None:
    picture = resized(read_picture(image, max_pixels=10**6), (48, 40))
    jobs = [sent(gateway, image, sizes="48,24"), sent(gateway, png(picture.pixels))]
    burst(settings)
    assert gateway.get(f"{jobs[0]['links']['image']}?size=48").content == gateway.get(jobs[1]["links"]["image"]).content


def test_without_the_original_the_largest_is_the_result(gateway: TestClient, settings: Settings, image: bytes) -> None:
    job = sent(gateway, image, sizes="24,48,12")
    burst(settings)
    done = gateway.get(job["links"]["self"]).json()
    assert (done["report"]["width"], done["report"]["height"]) == (48, 40)
    assert done["result"]["sha256"] == next(each["sha256"] for each in done["renditions"] if each["name"] == "48")


@pytest.mark.parametrize(("asked", "size"), [(None, "24"), ("24", "48"), ("24", ""), ("24", "../x"), ("24", "x" * 999)])
def test_a_size_that_is_not_there(
    asked: str | None, size: str, gateway: TestClient, settings: Settings, image: bytes
) -> None:
    job = sent(gateway, image, **({} if asked is None else {"sizes": asked}))
    burst(settings)
    detail = refused(gateway.get(job["links"]["image"], params={"size": size}), 404)
    assert ("it has 24" if asked else "it has the one, without size") in detail
    assert len(detail) < 200


def test_before_it_is_done(gateway: TestClient, image: bytes) -> None:
    job = sent(gateway, image, sizes="24")
    refused(gateway.get(job["links"]["image"], params={"size": "24"}), 409)


def test_the_mask_goes_with_every_size(gateway: TestClient, settings: Settings, image: bytes) -> None:
    mask = Image.new("L", (96, 80))
    mask.paste(255, (20, 10, 60, 60))
    job = sent(gateway, image, png(mask), sizes="original,48,20")
    burst(settings)
    for each in gateway.get(job["links"]["self"]).json()["renditions"]:
        size = each["width"], each["height"]
        original = resized(read_picture(image, max_pixels=10**6), size).pixels
        moved = ImageChops.difference(opened(gateway.get(each["url"]).content), original).convert("L")
        inside = ImageChops.multiply(moved, resized_mask(mask, size))
        assert inside.getextrema() == (0, 0)
        assert moved.getextrema()[1] > 0


def region(*box: int) -> bytes:
    mask = Image.new("L", (96, 80))
    mask.paste(255, box)
    return png(mask)


@pytest.mark.parametrize(
    ("mask", "fields", "field"),
    [
        (region(0, 0, 1, 1), {"method": "backdoor", "sizes": "original,10"}, "mask"),  # nothing is left of it
        (region(0, 0, 96, 79), {"sizes": "original,10"}, "mask"),  # nothing is left beside it
        (None, {"sizes": "0"}, "sizes"),
    ],
)
def test_a_size_with_which_nothing_can_be_done(
    mask: bytes | None, fields: dict[str, str], field: str, gateway: TestClient, settings: Settings, image: bytes
) -> None:
    files = {"image": ("a", image)} | ({} if mask is None else {"mask": ("b", mask)})
    refused(gateway.post("/immunize", files=files, data=QUICK | fields), 422, field)
    assert stored(settings) == []


def test_a_format_that_holds_the_sizes_but_not_the_original(gateway: TestClient, settings: Settings) -> None:
    wide = png(Image.new("RGB", (16_384, 2), (9, 99, 199)))
    refused(gateway.post("/immunize", files={"image": ("a", wide)}, data={"format": "webp"}), 422, "format")
    sent(gateway, wide, format="webp", sizes="1024")


def test_metadata_tells_each_size(gateway: TestClient, settings: Settings, photograph: Image.Image) -> None:
    job = sent(gateway, tagged.phone(photograph), sizes="original,40", format="jpeg", quality="80", exif="keep")
    burst(settings)
    for each in gateway.get(job["links"]["self"]).json()["renditions"]:
        file = opened(gateway.get(each["url"]).content)
        exif = file.getexif()
        assert (exif[0x0100], exif[0x0101], exif[0x0112]) == (*file.size, 1) == (each["width"], each["height"], 1)
        assert each["report"]["quality"] == 80


def test_jobs_of_the_same_sizes_are_done_together(open_gateway: Any, settings: Settings, image: bytes) -> None:
    together = settings.model_copy(update={"batch_max": 4})
    gateway = open_gateway(batch_max=4)
    jobs = [
        sent(gateway, image, sizes="48,24", seed=str(seed), format=format)
        for seed, format in enumerate(("png", "webp", "png"))
    ]
    alone = sent(gateway, image, sizes="48,24", seed="1", format="webp", epsilon="8", target="farthest")
    burst(together)
    for job in jobs:
        assert {each["report"]["batch"] for each in gateway.get(job["links"]["self"]).json()["renditions"]} == {3}
    assert gateway.get(alone["links"]["self"]).json()["report"]["batch"] == 1


def test_progress_counts_the_steps_of_all_sizes(
    gateway: TestClient, settings: Settings, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.watch import Watch

    seen, on_step = [], Watch.on_step

    def watched(self: Watch, step: int, steps: int, losses: Any) -> None:
        seen.append((step, steps))
        on_step(self, step, steps, losses)

    monkeypatch.setattr(Watch, "on_step", watched)
    sent(gateway, image, sizes="48,24,12")
    burst(settings)
    assert seen == [(step, 6) for step in range(1, 7)]


def test_a_job_that_is_canceled_between_two_sizes(
    gateway: TestClient, settings: Settings, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.watch import Watch

    on_step = Watch.on_step
    job = sent(gateway, image, sizes="48,24,12")

    def canceling(self: Watch, step: int, steps: int, losses: Any) -> None:
        if step == 3:
            assert gateway.post(job["links"]["cancel"]).status_code == 202
        on_step(self, step, steps, losses)

    monkeypatch.setattr(Watch, "on_step", canceling)
    burst(settings)
    done = gateway.get(job["links"]["self"]).json()
    assert (done["status"], done["result"], done["renditions"]) == ("canceled", None, [])
    home = f"jobs/public/{job['id']}"
    assert stored(settings) == [f"{home}/cancel", f"{home}/image", f"{home}/job.json"]


def test_what_an_overtaken_attempt_left_is_swept_and_no_rendition_with_it(
    gateway: TestClient, settings: Settings, image: bytes
) -> None:
    job = sent(gateway, image, sizes="48,24")
    records = Records(open_store(settings))
    record = records.load("public", job["id"])
    records.save(record.model_copy(update={"attempts": 1, "status": "queued"}))
    left = Path(settings.store_url.removeprefix("file://")) / f"jobs/public/{job['id']}" / ("0" * 64)
    left.write_bytes(b"left")
    burst(settings)
    assert not left.exists()
    for each in gateway.get(job["links"]["self"]).json()["renditions"]:
        assert gateway.get(each["url"]).status_code == 200


def test_a_record_of_before_there_were_sizes_is_still_read(
    gateway: TestClient, settings: Settings, image: bytes
) -> None:
    job = sent(gateway, image)
    records = Records(open_store(settings))
    record = records.load("public", job["id"])
    old = record.model_dump_json(
        exclude={"renditions": True, "plan": {"sizes", "quality", "exif", "data_mining", "sign"}}
    )
    records.store.put(f"jobs/public/{job['id']}/job.json", old.encode())
    burst(settings)
    assert gateway.get(job["links"]["self"]).json()["status"] == "finished"


def test_nothing_is_left_in_redis(gateway: TestClient, settings: Settings, image: bytes) -> None:
    sent(gateway, image, sizes="48,24")
    burst(settings)
    with connect(settings) as connection:
        assert JobQueue(connection, settings).depth() == 0
        assert not list(connection.scan_iter("rq:job:*"))
