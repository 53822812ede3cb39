"""Tenants at their limits, through the gateway: what is refused, what is told, and what does not count."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rq.utils import utcformat

from service.contracts.queue import connect
from service.contracts.records import now
from service.contracts.settings import Settings
from service.counters import Counted
from service.limits import LONGEST_WAIT, Limits, _turn, policies
from service.ratelimit import Policy
from tests.helpers import on_this_machine, wait_for
from tests.service.fields import parsed
from tests.service.keys import KeyFile, sent
from tests.service.test_immunize import refused

Open = Callable[..., TestClient]
NOWHERE = "unix:///nowhere/redis.sock"


def post(gateway: TestClient, key: str | None, image: bytes, **fields: str) -> Any:
    return gateway.post("/immunize", files={"image": ("a", image)}, data=fields, headers=sent(key))


def over(answer: Any, name: str, kind: str) -> str:
    """That the answer refuses for that limit, and tells when to come back; its sentence."""
    said = refused(answer, 429)
    assert answer.json()["type"] == f"urn:immunize:{kind}"
    seconds = int(answer.headers["retry-after"])
    assert seconds >= 1
    assert said.endswith(f"try again in {seconds} s")
    assert set(parsed(answer.headers["ratelimit"])) == {name}, "no other limit has a say in when to come back"
    state = parsed(answer.headers["ratelimit"])[name]
    assert state["r"] == 0
    assert state["t"] <= seconds
    assert name in parsed(answer.headers["ratelimit-policy"])
    return said


def test_what_a_submission_is_told(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key = keyed(tenant_rate=2.5, tenant_daily=100, tenant_waiting=10), keys.key()
    answers = [post(gateway, key, image), post(gateway, key, image), post(gateway, key, b"text")]
    assert [answer.status_code for answer in answers] == [202, 202, 415]
    for answer in answers:
        assert parsed(answer.headers["ratelimit-policy"]) == {
            "rate": {"q": 25, "w": 10},
            "daily": {"q": 100, "w": 86400},
            "waiting": {"q": 10},
        }
        assert "retry-after" not in answer.headers
    told = [parsed(answer.headers["ratelimit"]) for answer in answers]
    assert [each["daily"]["r"] for each in told] == [99, 98, 97]
    assert [each["waiting"]["r"] for each in told] == [9, 8, 7]
    assert all(22 <= each["rate"]["r"] <= 24 and each["rate"]["t"] == 1 for each in told)
    assert all(0 < each["daily"]["t"] <= 86400 for each in told)
    assert "ratelimit" not in gateway.get("/catalog", headers=sent(key)).headers


def test_without_limits_nothing_is_told(keyed: Open, keys: KeyFile, image: bytes) -> None:
    answer = post(keyed(tenant_rate=0, tenant_daily=0, tenant_waiting=0), keys.key(), image)
    assert answer.status_code == 202
    assert not {"ratelimit", "ratelimit-policy"} & set(answer.headers)


def test_too_many_requests(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key = keyed(tenant_rate=0.2), keys.key()
    job = post(gateway, key, image).json()
    assert gateway.get(job["links"]["self"], headers=sent(key)).status_code == 200
    for answer in (
        post(gateway, key, image),
        gateway.get(job["links"]["self"], headers=sent(key)),
        gateway.get(job["links"]["image"], headers=sent(key)),
        gateway.post(job["links"]["cancel"], headers=sent(key)),
        gateway.get("/catalog", headers=sent(keys.key())),  # another key of the same tenant
    ):
        over(answer, "rate", "too-fast")
        assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert post(gateway, keys.key("other"), image).status_code == 202
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert gateway.get(path).status_code == 200
    assert gateway.get("/metrics", headers=sent(keys.key(scopes=("metrics",)))).status_code == 200


def test_who_comes_back_when_told_is_served(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key = keyed(tenant_rate=1), keys.key()
    answers = [post(gateway, key, image) for _ in range(12)]
    assert [answer.status_code for answer in answers[:10]] == [202] * 10
    assert answers[-1].status_code in {202, 429}
    wait_for(lambda: post(gateway, key, image).status_code == 202, "the tenant is served again", seconds=5)


def test_the_days_quota(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key = keyed(tenant_daily=2), keys.key()
    assert [post(gateway, key, image).status_code for _ in range(2)] == [202, 202]
    answer = post(gateway, key, image)
    over(answer, "daily", "over-quota")
    assert int(answer.headers["retry-after"]) <= 86400
    assert post(gateway, keys.key("other"), image).status_code == 202
    assert gateway.get("/catalog", headers=sent(key)).status_code == 200, "what was sent can still be had"


def wrong(gateway: TestClient, key: str, image: bytes) -> list[Any]:
    """Submissions that are refused for all kinds of reasons."""
    headers = sent(key)
    return [
        post(gateway, key, b"text"),
        post(gateway, key, image[:100]),
        post(gateway, key, image, epsilon="0"),
        post(gateway, key, image, models="nobody"),
        post(gateway, key, b"0" * 20_000),
        gateway.post("/immunize", content=b"{", headers=headers | {"Content-Type": "application/json"}),
        gateway.post("/immunize", content=b"x", headers=headers | {"Content-Type": "multipart/form-data; boundary=x"}),
    ]


def test_what_is_refused_eats_no_quota_and_no_place(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key = keyed(tenant_daily=1, tenant_waiting=1, max_upload_bytes=30_000, max_pixels=96 * 80), keys.key()
    statuses = [answer.status_code for answer in wrong(gateway, key, image)]
    assert set(statuses) <= {413, 415, 422}, statuses
    assert post(gateway, key, image).status_code == 202
    over(post(gateway, key, image), "daily", "over-quota")


def test_a_full_house_eats_no_quota(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key = keyed(tenant_daily=2, max_queue_depth=1), keys.key()
    assert [post(gateway, key, image).status_code for _ in range(4)] == [202, 429, 429, 429]
    answer = post(gateway, key, image)
    assert answer.json()["type"] == "urn:immunize:queue-full", "and not over-quota"
    assert parsed(answer.headers["ratelimit"])["daily"]["r"] == 0


def test_what_fails_within_eats_no_quota(
    keyed: Open, keys: KeyFile, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, key = keyed(tenant_daily=1), keys.key()
    with monkeypatch.context() as patched:

        def bug(*_: object) -> None:
            raise RuntimeError

        patched.setattr("service.routes.immunize.read_picture", bug)
        assert [post(gateway, key, image).status_code for _ in range(3)] == [500] * 3
    assert post(gateway, key, image).status_code == 202


def test_the_share_of_the_queue(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key, other = keyed(tenant_waiting=2), keys.key(), keys.key("other")
    first, _ = (post(gateway, key, image).json() for _ in range(2))
    over(post(gateway, key, image), "waiting", "share-full")
    over(post(gateway, key, image, priority="bulk"), "waiting", "share-full")
    assert post(gateway, other, image).status_code == 202
    assert gateway.post(first["links"]["cancel"], headers=sent(key)).status_code == 202
    assert post(gateway, key, image).status_code == 202, "one that was canceled no longer waits"


def test_a_tenants_own_limits(keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateway, key, other = keyed(tenant_daily=1), keys.key(), keys.key("other")
    keys.limit("acme", daily=3, rate=0)
    answers = [post(gateway, key, image) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert parsed(answers[0].headers["ratelimit-policy"]) == {"daily": {"q": 3, "w": 86400}, "waiting": {"q": 5000}}
    assert [post(gateway, other, image).status_code for _ in range(2)] == [202, 429]
    keys.limit("acme", daily=4)
    assert post(gateway, key, image).status_code == 202, "without a restart"


def test_without_keys_there_are_limits_too(settings: Settings, image: bytes) -> None:
    from service.app import create_app

    with on_this_machine(create_app(settings.model_copy(update={"tenant_daily": 1}))) as gateway:
        assert [post(gateway, None, image).status_code for _ in range(2)] == [202, 429]


@pytest.mark.parametrize("limit", ["tenant_daily", "tenant_waiting"])
def test_many_at_once_through_two_gateways(limit: str, keyed: Open, keys: KeyFile, image: bytes) -> None:
    gateways, key = [keyed(**{limit: 5}) for _ in range(2)], keys.key()
    for gateway in gateways:
        gateway.get("/catalog", headers=sent(key))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: post(gateways[number % 2], key, image), range(24)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {202, 429}
    assert statuses.count(202) <= 5
    while len([status for status in statuses if status == 202]) < 5:  # some were refused for others under way
        statuses.append(post(gateways[0], key, image).status_code)
        assert statuses[-1] == 202
    assert post(gateways[0], key, image).status_code == 429


def test_without_redis_nothing_is_taken_and_what_is_stored_can_be_had(
    keyed: Open, keys: KeyFile, image: bytes, settings: Settings
) -> None:
    key = keys.key()
    job = post(keyed(), key, image).json()
    assert keyed().post(job["links"]["cancel"], headers=sent(key)).json()["status"] == "canceled"
    gateway = keyed(redis_url=NOWHERE, tenant_rate=0.1)
    answer = post(gateway, key, image)
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert [gateway.get(job["links"]["self"], headers=sent(key)).status_code for _ in range(5)] == [200] * 5


def test_redis_is_not_asked_again_at_every_call_while_it_is_away(
    keyed: Open, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, asked = keyed(redis_url=NOWHERE), []
    real = "service.counters.Counters.spend"
    monkeypatch.setattr(real, lambda *given: asked.append(given) or _away())
    for _ in range(5):
        refused(gateway.get("/jobs/" + "0" * 32, headers=sent(keys.key("acme"))), 404)
    assert len(asked) == 1


def _away() -> None:
    from service.contracts.errors import NotReady

    raise NotReady("away")


def test_a_count_that_fails_at_the_last_moment_takes_nothing_back(
    keyed: Open, keys: KeyFile, image: bytes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.counters.Counters.settle", lambda *_, **__: _away())
    answer = post(keyed(), keys.key(), image)
    assert answer.status_code == 202
    with connect(settings) as connection:
        (places,) = connection.keys("immunize:places:*")
        assert 0 < connection.ttl(places) <= 900


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(0, 0, 0), ()),
        (Limits(500, 0, 0), (Policy("rate", 5000, 10),)),
        (Limits(0.01, 0, 0), (Policy("rate", 1, 100),)),
        (Limits(0.25, 7, 3), (Policy("rate", 2, 8), Policy("daily", 7, 86400), Policy("waiting", 3))),
    ],
)
def test_what_policies_say(limits: Limits, told: tuple[Policy, ...]) -> None:
    assert policies(limits) == told


def counted(*lines: tuple[int, float]) -> Counted:
    """Lines of so many jobs, of which the first has waited so many seconds."""
    clock = now()
    waiting = tuple((length, utcformat(clock - timedelta(seconds=seconds))) for length, seconds in lines)
    return Counted("waiting", 0, 0, 0, 0, 0, math.floor(clock.timestamp()), waiting)


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ((), 1),
        (((1000, 10.0),), 1),
        (((10, 100.0),), 10),
        (((10, 100.0), (10, 100.0)), 5),
        (((1, 0.0),), 1),
        (((1, -50.0),), 1),  # its gateway's clock is ahead
        (((1, 1e6),), LONGEST_WAIT),
    ],
)
def test_when_the_share_has_room_again(lines: tuple[tuple[int, float], ...], seconds: int) -> None:
    assert abs(_turn(counted(*lines)) - seconds) <= 1
