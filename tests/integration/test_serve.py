"""The whole service on one machine, through HTTP alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image, ImageChops

from service.client import Client, JobFailed, Refused
from service.contracts.catalog import PRIORITIES
from tests.helpers import opened, png, wait_for
from tests.integration.served import Served, command
from tests.service.test_operations import samples


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("serve") / "data", environ) as served:
        yield served
        assert served.stop() == 0
        assert served.processes() == [], "it leaves nothing behind"


@pytest.fixture(scope="module")
def client(served: Served) -> Client:
    return served.client


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("epsilon", [8.0, 2.5])
def test_the_budget_holds_on_the_delivered_bytes_and_the_mask_is_untouched(
    format: str, epsilon: float, client: Client, image: bytes, photograph: Image.Image, mask: Image.Image
) -> None:
    job = client.submit(image, mask=png(mask), steps=4, epsilon=epsilon, format=format)
    done = client.wait(job.id, timeout=60)
    data = client.image(job.id)
    assert done.result is not None
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (done.result.sha256, done.result.bytes)
    delivered = opened(data).convert("RGB")
    difference = ImageChops.difference(delivered, photograph)
    report = done.report
    assert report is not None
    largest = max(high for _, high in difference.getextrema())
    assert 0 < largest == report.linf_255 <= epsilon == report.epsilon
    assert ImageChops.multiply(difference, mask.convert("RGB")).getbbox() is None
    assert report.mask
    assert report.loss_final < report.loss_initial
    assert report.gradient_evaluations == 4


def test_an_attack_on_edits(client: Client, image: bytes, photograph: Image.Image, mask: Image.Image) -> None:
    asked = {"method": "diffusion", "models": "painter,tiny", "prompt": "a cat\na dog", "repeats": 2, "steps": 3}
    done = client.wait(client.submit(image, mask=png(mask), **asked).id, timeout=60)
    report = done.report
    assert report is not None
    assert (report.method, report.models, report.prompts) == ("diffusion", ["painter", "tiny"], ["a cat", "a dog"])
    assert (report.denoising_steps, report.repeats, report.gradient_evaluations, report.masks) == (4, 2, 6, "given")
    assert report.loss_final < report.loss_initial
    difference = ImageChops.difference(opened(client.image(done.id)).convert("RGB"), photograph)
    assert 0 < max(high for _, high in difference.getextrema()) == report.linf_255 <= 8
    assert ImageChops.multiply(difference, mask.convert("RGB")).getbbox() is None


def test_a_protected_region(client: Client, image: bytes, photograph: Image.Image, mask: Image.Image) -> None:
    asked = {
        "method": "backdoor",
        "models": "painter,tiny",
        "losses": "hide,implant",
        "order": "sequential",
        "steps": 4,
    }
    done = client.wait(client.submit(image, mask=png(mask), **asked).id, timeout=60)
    report = done.report
    assert report is not None
    assert (report.method, report.losses, report.order) == ("backdoor", ["implant", "hide"], "sequential")
    assert (report.target, report.mask, report.gradient_evaluations) == ("farthest", True, 6)
    assert report.loss_final < report.loss_initial
    difference = ImageChops.difference(opened(client.image(done.id)).convert("RGB"), photograph)
    assert 0 < max(high for _, high in difference.getextrema()) == report.linf_255 <= 6
    assert ImageChops.multiply(difference, mask.convert("RGB")).getbbox() is not None
    with pytest.raises(Refused, match="protects one region and needs it"):
        client.submit(image, method="backdoor", models="painter")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(client: Client, image: bytes) -> None:
    same, again, other = (client.immunize(image, steps=3, seed=seed) for seed in (11, 11, 12))
    assert same == again
    assert same != other


def test_a_seed_is_drawn_for_every_job(client: Client, image: bytes) -> None:
    jobs = [client.wait(client.submit(image, steps=1).id, timeout=60) for _ in range(2)]
    assert jobs[0].report is not None
    assert jobs[1].report is not None
    assert jobs[0].report.seed != jobs[1].report.seed


def test_a_job_that_runs_is_canceled_within_a_step(client: Client, image: bytes) -> None:
    job = client.submit(image, models="tiny", steps=2000, priority="bulk")
    wait_for(lambda: client.job(job.id).progress, "it is under way")
    assert client.cancel(job.id).status in {"running", "canceled"}
    with pytest.raises(JobFailed, match="the job is canceled"):
        client.wait(job.id, timeout=20)
    done = client.job(job.id)
    assert (done.status, done.result, done.attempts) == ("canceled", None, 1)
    with pytest.raises(Refused, match="there is nothing left to cancel") as caught:
        client.cancel(job.id)
    assert (caught.value.problem.status, caught.value.problem.type) == (409, "urn:immunize:already-ended")
    assert client.wait(client.submit(image, steps=1).id, timeout=60).status == "finished", "the worker goes on"


def test_a_model_without_weights_is_refused_with_how_to_get_it(client: Client, image: bytes) -> None:
    def refused() -> Refused | None:
        try:
            client.submit(image, models="absent")
        except Refused as error:
            return error
        return None

    told = wait_for(refused, "the worker has said what it lacks").problem
    assert (told.status, told.type) == (422, "urn:immunize:model-missing")
    assert "put a diffusers folder" in told.detail


def test_one_address_shows_all_metrics(served: Served, client: Client, image: bytes) -> None:
    client.immunize(image, steps=3, models="tiny")
    httpx2.post(f"{served.address}/immunize", files={"image": ("a", b"text")})
    found = samples(wait_for(lambda: _with_heartbeat(served.address), "the worker has given a sign of life"))
    ours = {"method": "encoder", "model": "tiny"}

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert value("immunize_jobs_total", **ours, status="finished") >= 1
    assert value("immunize_gradient_evaluations_total", **ours) >= 3
    for stage in ("queued", "fetch", "optimize", "store", "total"):
        assert value("immunize_job_seconds_count", method="encoder", stage=stage) >= 1
    assert value("immunize_batch_size_count") >= 1
    assert value("immunize_rejected_total", reason="not-an-image") >= 1
    for queue in PRIORITIES:
        assert value("immunize_queue_depth", queue=queue) == 0
        assert value("immunize_queue_oldest_seconds", queue=queue) == 0
    assert any(name == "immunize_build_info" for name, _ in found)


def _with_heartbeat(address: str) -> str | None:
    text = httpx2.get(f"{address}/metrics").text
    return text if "\nimmunize_worker_last_heartbeat_seconds " in text else None


def test_a_body_that_turns_out_too_large(served: Served) -> None:
    def long() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(64):
            yield bytes(2**17)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = httpx2.post(f"{served.address}/immunize", content=long(), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert served.client.ready()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--port", "0", "--data", "{data}"), "--data: another `immunize serve` uses this folder"),
        (("--port", "{port}", "--data", "{other}"), "cannot listen on 127.0.0.1:{port} (Address already in use)"),
    ],
    ids=["the same folder", "the same port"],
)
def test_a_second_one_is_refused_in_one_line(
    arguments: tuple[str, ...], told: str, served: Served, environ: dict[str, str], tmp_path: Path
) -> None:
    names = {"data": str(served.data), "other": str(tmp_path / "other"), "port": served.address.rpartition(":")[2]}
    done = subprocess.run(
        command(*(argument.format(**names) for argument in arguments)),
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environ,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert told.format(**names) in done.stderr
    assert served.client.ready(), "the first one goes on"


def test_it_wrote_no_trace(served: Served) -> None:
    assert "Traceback" not in served.told
