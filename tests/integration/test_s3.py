"""Gateway, bucket, queue and worker, each through its own door; the bucket is the truth."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from PIL import Image, ImageChops

from service.app import create_app
from service.contracts.queue import JobQueue, connect
from service.contracts.reconcile import GRACE, Reconciler
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.contracts.store import open_store
from tests.burst import burst
from tests.helpers import on_this_machine, opened, png


def test_a_job_through_a_bucket_survives_a_wiped_redis(
    settings: Settings, s3: Callable[..., Settings], image: bytes, photograph: Image.Image, mask: Image.Image
) -> None:
    here = s3("some/prefix", **settings.model_dump(include={"redis_url", "models_file", "device", "metrics_port"}))
    store = open_store(here)
    with on_this_machine(create_app(here)) as gateway, connect(here) as connection:
        assert gateway.get("/readyz").status_code == 200
        answer = gateway.post(
            "/immunize",
            files={"image": ("photo.png", image), "mask": ("mask.png", png(mask))},
            data={"models": "tiny", "steps": "3", "epsilon": "4", "format": "webp"},
        )
        assert answer.status_code == 202, answer.text
        job = answer.json()
        home = f"jobs/public/{job['id']}"
        waiting = {f"{home}/{name}" for name in ("image", "mask", "job.json")}
        assert set(store.keys("")) == waiting | {f"pending/public/{job['id']}"}

        connection.flushall()
        records = Records(store)
        record = records.load("public", job["id"])
        record.created_at -= GRACE + timedelta(seconds=1)
        records.save(record)
        connection.set("immunize:since", 0)  # it was wiped long ago: workers have said what they hold
        reconciler = Reconciler(records, JobQueue(connection, here), seconds=60, lease=here.lease_seconds)
        assert reconciler.reconcile() == 1

        burst(here)
        done = gateway.get(job["links"]["self"]).json()
        assert done["status"] == "finished", done
        assert set(store.keys("")) == waiting | {f"{home}/{done['result']['sha256']}"}
        delivered = gateway.get(done["links"]["image"])
        assert delivered.headers["content-type"] == "image/webp"
        difference = ImageChops.difference(opened(delivered.content).convert("RGB"), photograph)
        assert max(high for _, high in difference.getextrema()) == done["report"]["linf_255"] == 4
        assert ImageChops.multiply(difference, mask.convert("RGB")).getbbox() is None
