"""What operators and newcomers look at: alive, ready, metrics, catalog, docs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.contracts.catalog import METHODS, PRIORITIES
from service.contracts.plan import SOME
from service.contracts.queue import JobQueue, connect
from service.contracts.schemas import Report
from service.contracts.settings import Settings
from tests.service.test_immunize import refused

NOWHERE = "unix:///nowhere/redis.sock"


def test_alive_whatever_else_is_away(open_gateway: Callable[..., TestClient]) -> None:
    answer = open_gateway(redis_url=NOWHERE).get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_ready(gateway: TestClient) -> None:
    assert gateway.get("/readyz").status_code == 200


def test_not_ready_without_redis(open_gateway: Callable[..., TestClient]) -> None:
    answer = open_gateway(redis_url=NOWHERE).get("/readyz")
    assert "queue" in refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_not_ready_without_its_folder(gateway: TestClient, settings: Settings) -> None:
    shutil.rmtree(Path(settings.store_url.removeprefix("file://")))
    answer = gateway.get("/readyz")
    assert "store" in refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_not_ready_without_its_bucket(open_gateway: Callable[..., TestClient], s3: Callable[..., Settings]) -> None:
    bucket = s3().model_dump(include={"s3_endpoint_url", "s3_region"})
    answer = open_gateway(**bucket, store_url="s3://no-such-bucket").get("/readyz")
    assert "store" in refused(answer, 503)


def test_the_catalog(gateway: TestClient, settings: Settings) -> None:
    with connect(settings) as connection:
        JobQueue(connection, settings).announce("one", {"absent": "put it there"})
    found = gateway.get("/catalog").json()
    assert {method["name"] for method in found["methods"]} == set(METHODS)
    models = {model["name"]: model for model in found["models"]}
    assert {"tiny", "absent", found["default_model"]} <= set(models)
    assert (models["tiny"]["present"], models["tiny"]["how_to_get"]) == (True, None)
    assert (models["absent"]["present"], models["absent"]["how_to_get"]) == (False, "put it there")
    assert models["tiny"]["abilities"] == ["encodes", "decodes"]
    assert found["limits"]["max_pixels"] == settings.max_pixels
    assert found["limits"]["max_upload_bytes"] == settings.max_upload_bytes
    assert found["limits"]["formats"] == ["png", "webp", "jpeg"]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_gateways_metrics(gateway: TestClient, image: bytes) -> None:
    for priority in ("interactive", "interactive", "bulk"):
        gateway.post("/immunize", files={"image": ("a", image)}, data={"priority": priority})
    gateway.post("/immunize", files={"image": ("a", b"text")})
    gateway.post("/immunize", files={"image": ("a", image)}, data={"epsilon": "nan"})
    answer = gateway.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = samples(answer.text)
    for queue in PRIORITIES:
        assert found["immunize_queue_depth", (("queue", queue),)] == {"interactive": 2, "bulk": 1}[queue]
        assert found["immunize_queue_oldest_seconds", (("queue", queue),)] >= 0
    assert found["immunize_rejected_total", (("reason", "not-an-image"),)] == 1
    assert found["immunize_rejected_total", (("reason", "invalid-field"),)] == 1
    assert any(name == "immunize_build_info" and value == 1 for (name, _), value in found.items())


def test_metrics_without_redis(open_gateway: Callable[..., TestClient]) -> None:
    answer = open_gateway(redis_url=NOWHERE).get("/metrics")
    assert answer.status_code == 200
    names = {name for name, _ in samples(answer.text)}
    assert "immunize_build_info" in names
    assert "immunize_queue_depth" not in names


def test_the_docs(gateway: TestClient) -> None:
    assert gateway.get("/docs").status_code == 200
    paths = gateway.get("/openapi.json").json()["paths"]
    assert set(paths) >= {"/immunize", "/jobs/{job_id}", "/jobs/{job_id}/image", "/jobs/{job_id}/cancel"}
    assert set(paths) >= {"/catalog", "/healthz", "/readyz"}
    for path, calls in paths.items():
        for verb, call in calls.items():
            assert call["operationId"], f"{verb} {path}"
            assert call["summary"], f"{verb} {path}"
    form = paths["/immunize"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(form) >= {
        "image", "mask", "target_image", "method", "models", "epsilon", "steps", "seed", "preset", "target", "format",
        "metadata", "priority", *SOME,
    }  # fmt: skip
    assert form["losses"]["default"] == "implant,incomplete,hide"
    assert form["order"]["enum"] == ["parallel", "sequential"]
    assert (form["priority"]["enum"], form["priority"]["default"]) == (["interactive", "bulk"], "interactive")


def test_the_docs_describe_the_whole_report(gateway: TestClient) -> None:
    schemas = gateway.get("/openapi.json").json()["components"]["schemas"]
    report = schemas["Report"]["properties"]
    assert set(report) == set(Report.model_fields)
    assert report["losses"]["items"]["enum"] == ["implant", "incomplete", "hide"]
    assert set(report) >= {"losses", "order"}


def test_the_catalog_tells_what_each_method_takes(gateway: TestClient) -> None:
    methods = {method["name"]: method for method in gateway.get("/catalog").json()["methods"]}
    assert methods["backdoor"]["takes"] == ["prompt", "denoising_steps", "gradient_steps", "losses", "order"]
    assert {name for name, method in methods.items() if method["needs_mask"]} == {"backdoor"}


@pytest.mark.parametrize("status", ["404", "409", "503"])
def test_the_docs_tell_the_errors_of_a_cancel(status: str, gateway: TestClient) -> None:
    answers = gateway.get("/openapi.json").json()["paths"]["/jobs/{job_id}/cancel"]["post"]["responses"]
    assert "application/problem+json" in answers[status]["content"]
    assert "202" in answers


@pytest.mark.parametrize("status", ["413", "415", "422", "429", "503"])
def test_the_docs_tell_the_errors_of_an_upload(status: str, gateway: TestClient) -> None:
    answers = gateway.get("/openapi.json").json()["paths"]["/immunize"]["post"]["responses"]
    assert "application/problem+json" in answers[status]["content"]
