"""`sign=true` over HTTP: with the operator's certificate, and without."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import c2pa
import pytest
from fastapi.testclient import TestClient

from service.client import Client
from service.contracts.settings import Settings
from tests.burst import burst
from tests.certificates import make_chain
from tests.service.test_immunize import refused, stored

Open = Callable[..., TestClient]
QUICK = {"models": "tiny", "steps": "1"}


@pytest.fixture
def signing(settings: Settings, tmp_path: Path) -> Settings:
    certificate, key = make_chain().write(tmp_path)
    return settings.model_copy(update={"c2pa_certificate": certificate, "c2pa_key": key})


def test_a_signed_result(open_gateway: Open, signing: Settings, image: bytes) -> None:
    gateway = open_gateway(c2pa_certificate=Path("/not/read/by/the/gateway"))
    assert gateway.get("/catalog").json()["limits"]["signing"] is True
    fields = QUICK | {"sign": "true", "sizes": "48,original"}
    job = gateway.post("/immunize", files={"image": ("a", image)}, data=fields).json()
    burst(signing)
    done = gateway.get(job["links"]["self"]).json()
    assert [each["report"]["signed"] for each in done["renditions"]] == [True, True]
    quiet = c2pa.Context.from_dict({"verify": {"verify_trust": False}})
    for each in done["renditions"]:
        data = gateway.get(each["url"]).content
        with c2pa.Reader("image/png", io.BytesIO(data), context=quiet) as reader:
            assert reader.get_validation_state() == "Valid"
            assert "c2pa.resized" in reader.json()


def test_without_a_certificate(gateway: TestClient, settings: Settings, image: bytes) -> None:
    assert gateway.get("/catalog").json()["limits"]["signing"] is False
    answer = gateway.post("/immunize", files={"image": ("a", image)}, data=QUICK | {"sign": "true"})
    assert "IMMUNIZE_C2PA_CERTIFICATE and IMMUNIZE_C2PA_KEY" in refused(answer, 422, "sign")
    assert stored(settings) == []


def test_a_worker_that_lacks_the_certificate_says_so(open_gateway: Open, settings: Settings, image: bytes) -> None:
    gateway = open_gateway(c2pa_certificate=Path("/somewhere"))
    job = gateway.post("/immunize", files={"image": ("a", image)}, data=QUICK | {"sign": "true"}).json()
    burst(settings)
    done = gateway.get(job["links"]["self"]).json()
    assert (done["status"], done["error"]["type"]) == ("failed", "invalid-field")
    assert done["error"]["detail"].startswith("sign: ")


def test_the_client_says_true_as_the_gateway_does(open_gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, str] = {}

    def post(self: object, path: str, *, files: object, data: dict[str, str]) -> None:
        sent.update(data)
        raise TimeoutError

    monkeypatch.setattr("httpx2.Client.post", post)
    with Client("http://127.0.0.1:1") as client, pytest.raises(TimeoutError):
        client.submit(b"picture", sign=True, epsilon=4.0)
    assert sent == {"sign": "true", "epsilon": "4.0"}
