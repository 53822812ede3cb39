"""Webhooks as a tenant meets them: webhook_url, the job's `webhook`, the replay, the metric, the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service import cli
from service.client import NotGenuine, verify_webhook
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.contracts.store import open_store
from service.webhooks.signing import Signer, tenant_secret
from tests.burst import burst
from tests.helpers import wait_for
from tests.service.test_immunize import refused
from tests.service.webhooks.receiver import Receiver

Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def submit(gateway: TestClient, image: bytes) -> Submit:
    def submitted(url: str | None) -> dict[str, Any]:
        data = {"models": "tiny", "steps": "1"} | ({} if url is None else {"webhook_url": url})
        answer = gateway.post("/immunize", files={"image": ("a.png", image)}, data=data)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    return submitted


def webhook(gateway: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    return dict(gateway.get(job["links"]["self"]).json()["webhook"])


def test_from_the_upload_to_the_receiver(
    gateway: TestClient, submit: Submit, hook: Receiver, settings: Settings, secret: Callable[..., str]
) -> None:
    job = submit(hook.url)
    host = hook.url.split("/")[2]
    assert job["webhook"] == {
        "host": host,
        "state": "pending",
        "attempts": 0,
        "last_status": None,
        "last_error": None,
        "next_attempt_at": None,
    }
    burst(settings)
    (got,) = wait_for(lambda: hook.got, "the webhook")
    wait_for(lambda: webhook(gateway, job)["state"] == "delivered", "written down")
    event = verify_webhook(secret(), got.headers, got.body)
    assert (event.type, event.data.id, event.data.status) == ("job.finished", job["id"], "finished")
    shown = gateway.get(job["links"]["self"]).json()
    assert event.data.model_dump(mode="json", by_alias=True) == shown | {"webhook": None}
    assert (shown["webhook"]["attempts"], shown["webhook"]["last_status"]) == (1, 204)
    found = gateway.get("/metrics").text
    assert 'immunize_webhooks_total{outcome="delivered"} 1.0' in found
    assert 'immunize_webhooks_total{outcome="refused"} 0.0' in found


def test_a_job_that_is_canceled_while_it_waits(gateway: TestClient, submit: Submit, hook: Receiver) -> None:
    job = submit(hook.url)
    assert gateway.post(job["links"]["cancel"]).status_code == 202
    (got,) = wait_for(lambda: hook.got, "the webhook")
    assert b'"job.canceled"' in got.body


def test_without_a_webhook(submit: Submit) -> None:
    assert submit(None)["webhook"] is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://example.com@127.0.0.1/", "user name or password"),
        ("https://169.254.169.254/", "not a public one"),
        ("https://2130706433/", "host is a number"),
        ("", "not an https address"),
        ("https://example.com/" + "a" * 3000, "at most 2000"),
    ],
)
def test_what_is_refused_at_once(url: str, told: str, gateway: TestClient, image: bytes, settings: Settings) -> None:
    answer = gateway.post("/immunize", files={"image": ("a.png", image)}, data={"webhook_url": url})
    assert told in refused(answer, 422, "webhook_url")
    assert list(Records(open_store(settings)).pending()) == []


def test_a_deployment_without_a_secret(open_gateway: Callable[..., TestClient], image: bytes) -> None:
    gateway = open_gateway(webhook_secret=None)
    sent = {"webhook_url": "https://example.com/hook"}
    answer = gateway.post("/immunize", files={"image": ("a.png", image)}, data=sent)
    assert "IMMUNIZE_WEBHOOK_SECRET" in refused(answer, 422, "webhook_url")


def test_a_replay(gateway: TestClient, submit: Submit, hook: Receiver, settings: Settings) -> None:
    job = submit(hook.url)
    replay = f"/jobs/{job['id']}/webhook"
    assert "when it has ended" in refused(gateway.post(replay), 409)
    burst(settings)
    wait_for(lambda: webhook(gateway, job)["state"] == "delivered", "delivered")
    answer = gateway.post(replay)
    assert (answer.status_code, answer.json()["webhook"]["state"]) == (202, "pending")
    wait_for(lambda: len(hook.got) == 2, "the second")
    wait_for(lambda: webhook(gateway, job)["state"] == "delivered", "delivered again")
    assert {got.headers["webhook-id"] for got in hook.got} == {f"msg_{job['id']}"}
    assert hook.got[0].body == hook.got[1].body


def test_what_cannot_be_replayed(
    gateway: TestClient, open_gateway: Callable[..., TestClient], submit: Submit, hook: Receiver, settings: Settings
) -> None:
    refused(gateway.post(f"/jobs/{'0' * 32}/webhook"), 404)
    refused(gateway.post("/jobs/x/webhook"), 404)
    none, some = submit(None), submit(hook.url)
    assert "has no webhook" in refused(gateway.post(f"/jobs/{none['id']}/webhook"), 409)
    records = Records(open_store(settings))
    records.end(records.load("public", some["id"]), "failed")
    unsigned = open_gateway(webhook_secret=None)
    assert "IMMUNIZE_WEBHOOK_SECRET" in refused(unsigned.post(f"/jobs/{some['id']}/webhook"), 409)


def test_the_docs_tell_of_webhooks(gateway: TestClient) -> None:
    docs = gateway.get("/openapi.json").json()
    assert (
        "webhook_url"
        in docs["paths"]["/immunize"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    )
    assert set(docs["paths"]["/jobs/{job_id}/webhook"]["post"]["responses"]) >= {"202", "404", "409"}
    assert docs["webhooks"]["job.ended"]["post"]["requestBody"]
    assert set(docs["components"]["schemas"]["Event"]["properties"]) == {"type", "timestamp", "data"}


@pytest.fixture
def signed(settings: Settings, secret: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """Headers of a body, signed some seconds from now."""
    import datetime

    def made(body: bytes, seconds: float = 0) -> dict[str, str]:
        when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        return Signer(settings.webhook_secrets).headers("public", "msg_1", when, body)

    return made


BODY = (
    b'{"type":"job.failed","timestamp":"2026-01-02T03:04:05Z","data":{"id":"1","status":"failed","priority":"bulk",'
    b'"method":"noise","models":[],"created_at":"2026-01-02T03:04:05Z","later_field":1,'
    b'"links":{"self":"/jobs/1","image":"/jobs/1/image","cancel":"/jobs/1/cancel"}}}'
)


def test_verifying(signed: Callable[..., dict[str, str]], secret: Callable[..., str]) -> None:
    headers = signed(BODY, -240)
    assert verify_webhook(secret(), {name.title(): text for name, text in headers.items()}, BODY).data.id == "1"


HOSTILE: dict[str, Callable[[dict[str, str], bytes], tuple[dict[str, str], bytes]]] = {
    "another body": lambda headers, body: (headers, body + b" "),
    "another id": lambda headers, body: (headers | {"webhook-id": "msg_2"}, body),
    "a later time": lambda headers, body: (
        headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)},
        body,
    ),
    "no headers": lambda _, body: ({}, body),
    "no number": lambda headers, body: (headers | {"webhook-timestamp": "nan"}, body),
    "no signature": lambda headers, body: (headers | {"webhook-signature": "v1"}, body),
    "no base64": lambda headers, body: (headers | {"webhook-signature": "v1,a"}, body),
    "too many commas": lambda headers, body: (headers | {"webhook-signature": "v1,a,b"}, body),
    "another version": lambda headers, body: (
        headers | {"webhook-signature": headers["webhook-signature"].replace("v1", "v9")},
        body,
    ),
    "no text": lambda headers, _: (headers, b"\xff\xfe"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_genuine(case: str, signed: Callable[..., dict[str, str]], secret: Callable[..., str]) -> None:
    with pytest.raises(NotGenuine, match=r"^the webhook is not genuine: "):
        verify_webhook(secret(), *HOSTILE[case](signed(BODY), BODY))


@pytest.mark.parametrize("seconds", [-400, 400])
def test_what_is_not_of_now(seconds: int, signed: Callable[..., dict[str, str]], secret: Callable[..., str]) -> None:
    with pytest.raises(NotGenuine, match="timestamp too"):
        verify_webhook(secret(), signed(BODY, seconds), BODY)


def test_the_command_tells_a_tenants_secret(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (secret,) = settings.webhook_secrets
    assert cli.main(["webhook-secret"]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "openssl rand -hex 32" in told.err
    monkeypatch.setenv("IMMUNIZE_WEBHOOK_SECRET", f"a-newer-secret-of-the-same-operators,{secret}")
    assert cli.main(["webhook-secret", "--tenant", "one"]) == 0
    told = capsys.readouterr()
    assert told.out == tenant_secret("a-newer-secret-of-the-same-operators", "one") + "\n"
    assert told.out.startswith("whsec_")
    assert cli.main(["webhook-secret", "--tenant", "../one"]) == 2
    assert "'../one' is not a tenant's name" in capsys.readouterr().err
