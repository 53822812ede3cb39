"""Who is let in where there are no keys, what is said at the start, and what is never written down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient

from service.app import create_app
from service.auth import check_exposure
from service.client import Client, Refused
from service.contracts.errors import BadField
from service.contracts.settings import Settings
from service.listen import address, is_loopback, listen
from tests.helpers import wait_for
from tests.service.keys import SOMEWHERE, KeyFile, sent
from tests.service.test_immunize import refused

LOOPBACK = {"127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "::1", "::ffff:127.0.0.1"}
NOT_LOOPBACK = {"0.0.0.0", "::", "10.0.0.1", "127.evil.example", "localhost.example", "", "127.1", "::ffff:10.0.0.1"}  # noqa: S104


@pytest.mark.parametrize("host", sorted(LOOPBACK | NOT_LOOPBACK))
def test_what_is_loopback(host: str) -> None:
    assert is_loopback(host) == (host in LOOPBACK)


HERE = ("127.0.0.1", 50_000)
VISITS: dict[str, tuple[tuple[str, int] | None, str, dict[str, str], bool]] = {
    "this machine": (HERE, "http://127.0.0.1:8000", {}, True),
    "this machine, by name": (HERE, "http://localhost:8000", {}, True),
    "this machine, IPv6": (("::1", 50_000), "http://[::1]:8000", {}, True),
    "this machine, IPv4 in IPv6": (("::ffff:127.0.0.1", 50_000), "http://127.0.0.1", {}, True),
    "a page of its own": (HERE, "http://localhost:8000", {"Origin": "http://localhost:3000"}, True),
    "another machine": (SOMEWHERE, "http://127.0.0.1:8000", {}, False),
    "nobody knows": (None, "http://127.0.0.1:8000", {}, False),
    "a name of the web (DNS rebinding)": (HERE, "http://evil.example:8000", {}, False),
    "a name like loopback": (HERE, "http://127.0.0.1.evil.example", {}, False),
    "no name that can be": (HERE, "http://127.0.0.1", {"Host": "[::1"}, False),
    "a foreign page": (HERE, "http://127.0.0.1", {"Origin": "https://evil.example"}, False),
    "a page without origin": (HERE, "http://127.0.0.1", {"Origin": "null"}, False),
    "through a proxy": (HERE, "http://127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
    "through a proxy, RFC 7239": (HERE, "http://127.0.0.1", {"Forwarded": "for=203.0.113.5"}, False),
    "through nginx": (HERE, "http://127.0.0.1", {"X-Real-IP": "203.0.113.5"}, False),
}


@pytest.mark.parametrize("path", ["/catalog", "/metrics", "/jobs/" + "0" * 32])
@pytest.mark.parametrize("visit", VISITS)
def test_without_keys_this_machine_alone_is_served(visit: str, path: str, settings: Settings) -> None:
    client, base, headers, served = VISITS[visit]
    app: Any = create_app(settings)
    if client is None:
        app = _nameless(app)
    with TestClient(app, base_url=base, client=client or HERE) as gateway:
        answer = gateway.get(path, headers=headers)
    if served:
        assert answer.status_code == (404 if "jobs" in path else 200)
    else:
        refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


def _nameless(app: Any) -> Any:
    async def called(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"client": None}, receive, send)

    return called


def test_what_is_open_is_open_to_all(settings: Settings) -> None:
    with TestClient(create_app(settings), client=SOMEWHERE) as gateway:
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert gateway.get(path).status_code == 200


def test_without_keys_and_so_allowed_everybody_is_served(settings: Settings, image: bytes) -> None:
    app = create_app(settings.model_copy(update={"allow_anonymous": True}))
    with TestClient(app, client=SOMEWHERE) as gateway:
        answer = gateway.post("/immunize", files={"image": ("a", image)})
        assert answer.status_code == 202
        assert gateway.get(answer.headers["location"]).json()["id"] == answer.json()["id"]
        assert gateway.get("/metrics").status_code == 200


def test_where_there_are_keys_no_other_setting_lets_anybody_in(keyed: Callable[..., TestClient]) -> None:
    gateway = keyed(allow_anonymous=True)
    refused(gateway.get("/catalog"), 401)


def test_with_keys_this_machine_needs_one_too_except_for_metrics(settings: Settings, keys: KeyFile) -> None:
    app = create_app(settings.model_copy(update={"api_keys_file": keys.path}))
    with TestClient(app, base_url="http://127.0.0.1", client=HERE) as gateway:
        refused(gateway.get("/catalog"), 401)
        assert gateway.get("/metrics").status_code == 200
        refused(gateway.get("/metrics", headers={"X-Forwarded-For": "203.0.113.5"}), 401)


@pytest.mark.parametrize(
    ("host", "changed", "warning"),
    [
        ("127.0.0.1", {}, "there are no API keys: only clients on this machine are served"),
        ("localhost", {}, "there are no API keys: only clients on this machine are served"),
        ("0.0.0.0", {"allow_anonymous": True}, "there are no API keys: whoever reaches it can use it"),  # noqa: S104
        ("127.0.0.1", {"allow_anonymous": True}, "there are no API keys: whoever reaches it can use it"),
        ("0.0.0.0", {"api_keys_file": Path("keys")}, None),  # noqa: S104
    ],
)
def test_what_is_said_at_the_start(host: str, changed: dict[str, Any], warning: str | None) -> None:
    assert check_exposure(host, Settings(**changed)) == warning


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])  # noqa: S104
def test_an_open_door_is_not_opened_by_oversight(host: str) -> None:
    with pytest.raises(BadField) as caught:
        check_exposure(host, Settings())
    assert "`immunize keys create`" in caught.value.detail
    assert "IMMUNIZE_ALLOW_ANONYMOUS=true" in caught.value.detail


def test_a_tenants_name_is_where_its_jobs_lie(
    keyed: Callable[..., TestClient], keys: KeyFile, settings: Settings, image: bytes
) -> None:
    answer = keyed().post("/immunize", files={"image": ("a", image)}, headers=sent(keys.key("acme")))
    home = Path(settings.store_url.removeprefix("file://")) / "jobs" / "acme" / answer.json()["id"]
    assert '"tenant":"acme"' in (home / "job.json").read_text()


@pytest.fixture
def served(settings: Settings, keys: KeyFile) -> Iterator[str]:
    """The address of a gateway with keys, as uvicorn serves it."""
    app = create_app(settings.model_copy(update={"api_keys_file": keys.path}))
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="debug", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started, "the gateway listens")
            yield address(listener)
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def test_a_key_is_in_no_log_and_in_no_answer(
    keys: KeyFile, request: pytest.FixtureRequest, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    all_keys = [keys.key(), keys.key(revoked=True), keys.key(scopes=("read",)), f"imz_{'0' * 12}_{'1' * 64}"]
    served = request.getfixturevalue("served")
    answers = []
    with httpx2.Client(base_url=served) as client:
        for key in all_keys:
            for files in ({"image": ("a", image)}, {"image": ("a", b"text")}):
                answers.append(client.post("/immunize", files=files, headers=sent(key)))
            answers.append(client.get("/catalog", headers=sent(key)))
    assert {answer.status_code for answer in answers} == {200, 202, 401, 403, 415}
    told = caplog.text + keys.path.read_text() + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    told += "".join(repr(vars(record)) for record in caplog.records if not record.name.startswith(("httpcore", "h11")))
    assert "/immunize" in told
    for key in all_keys:
        assert key.rpartition("_")[2] not in told


def test_the_client_sends_its_key(keys: KeyFile, request: pytest.FixtureRequest, image: bytes) -> None:
    key = keys.key()
    served = request.getfixturevalue("served")
    with Client(served, key=key) as client:
        assert client.job(client.submit(image).id).status == "queued"
    with Client(served) as client, pytest.raises(Refused) as caught:
        client.submit(image)
    assert caught.value.problem.status == 401
