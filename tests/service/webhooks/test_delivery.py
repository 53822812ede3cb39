"""Webhooks from the end of a job to a receiver that really listens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from service.client import verify_webhook
from service.webhooks.post import Poster
from service.webhooks.reach import Reach
from service.webhooks.schedule import JITTER, PAUSES
from service.webhooks.signing import tenant_secret
from tests.service.webhooks.conftest import Office
from tests.service.webhooks.receiver import Receiver, hangs_up, nobody, waits

DAY = 24 * 3600.0


@pytest.mark.parametrize("status", ["finished", "failed", "canceled"])
def test_the_end_of_a_job_is_told_once_and_signed(
    status: str, office: Office, hook: Receiver, secret: Callable[..., str]
) -> None:
    record = office.job(hook.url, status=status)
    assert [office.turn(), office.turn()] == [1, 0]
    (got,) = hook.got
    told = Webhook(secret()).verify(got.body, got.headers)
    assert (told["type"], told["data"]["id"], told["data"]["status"]) == (f"job.{status}", record.id, status)
    assert set(told) == {"type", "timestamp", "data"}
    assert datetime.fromisoformat(told["timestamp"]) == record.ended_at
    assert (told["data"]["metadata"], told["data"]["webhook"]) == ({"album": 7}, None)
    assert (got.path, got.headers["content-type"], got.headers["webhook-id"]) == (
        "/hook?a=1",
        "application/json",
        f"msg_{record.id}",
    )
    assert verify_webhook(secret(), got.headers, got.body).data.id == record.id
    last = office.last(record)
    assert (last.state, last.attempts, last.last_status, last.next_at) == ("delivered", 1, 204, None)
    assert office.outcomes() == {"delivered": 1}
    office.later(2 * DAY)
    assert office.turn() == 0


def test_each_tenant_has_a_secret_of_its_own(office: Office, hook: Receiver, secret: Callable[..., str]) -> None:
    office.job(hook.url, tenant="one")
    office.turn()
    Webhook(secret("one")).verify(hook.got[0].body, hook.got[0].headers)
    for other in (secret("two"), secret(), tenant_secret("another operator's secret, as long", "one")):
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(other).verify(hook.got[0].body, hook.got[0].headers)


def test_a_job_that_asked_for_none_gets_none(office: Office) -> None:
    record = office.job(None)
    assert office.turn() == 0
    assert office.outbox.last("public", record.id) is None


FAILURES: dict[str, tuple[Any, int | None, str | None]] = {
    "an error": (500, 500, None),
    "not found": (404, 404, None),
    "a redirect": ((302, {"location": "http://169.254.169.254/latest/meta-data/"}, b""), 302, None),
    "a redirect that keeps the method": ((307, {"location": "/elsewhere"}, b""), 307, None),
    "hangs up": (hangs_up, None, "the connection broke before there was an answer"),
    "no HTTP": (lambda to: to.sendall(b"what?\r\n\r\n"), None, "the connection broke before there was an answer"),
    "endless headers": (
        lambda to: to.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000),
        None,
        "the connection broke before there was an answer",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_fails_is_sent_again_and_followed_nowhere(case: str, office: Office, hook: Receiver) -> None:
    answer, status, error = FAILURES[case]
    hook.answers = [answer]
    record = office.job(hook.url)
    assert office.turn() == 1
    stands = office.waiting(record)
    assert (stands.state, stands.attempts, stands.last_status, stands.last_error) == ("pending", 1, status, error)
    assert office.turn() == 0, "not yet"
    office.later(PAUSES[0] * (1 + JITTER))
    assert office.turn() == 1
    assert [got.headers["webhook-id"] for got in hook.got] == [f"msg_{record.id}"] * 2
    assert [got.path for got in hook.got] == ["/hook?a=1"] * 2
    assert hook.got[0].body == hook.got[1].body
    assert int(hook.got[1].headers["webhook-timestamp"]) - int(hook.got[0].headers["webhook-timestamp"]) >= 5
    assert (office.last(record).state, office.outcomes()) == ("delivered", {"retried": 1, "delivered": 1})


def test_where_nobody_listens(office: Office) -> None:
    record = office.job(nobody())
    office.turn()
    assert office.waiting(record).last_error == "no connection could be made"


@pytest.mark.parametrize("dribbles", [False, True])
def test_who_does_not_answer_in_time(dribbles: bool, office: Office, hook: Receiver) -> None:
    over = threading.Event()

    def dribble(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while not over.wait(0.05):
            connection.sendall(b"y")

    hook.answers = [dribble if dribbles else waits(over)]
    record = office.job(hook.url)
    poster = Poster(Reach(office.settings.webhook_networks), total=0.4)
    office.turn(office.dispatcher(poster))
    over.set()
    assert office.waiting(record).last_error == "there was no answer within 0.4 seconds"


def test_a_long_answer_is_not_read(office: Office, hook: Receiver) -> None:
    sent = []

    def flood(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(bytes(1_000_000))
            sent.append(1)

    hook.answers = [flood]
    record = office.job(hook.url)
    office.turn()
    assert office.last(record).state == "delivered"
    assert len(sent) < 50


def test_after_about_a_day_it_is_given_up(office: Office, hook: Receiver) -> None:
    hook.answers = [503] * 100
    record, waited = office.job(hook.url), 0.0
    for pause in PAUSES:
        office.turn()
        office.later(pause * (1 + JITTER))
        waited += pause
    office.turn()
    last = office.last(record)
    assert (last.state, last.attempts, last.last_status, last.next_at) == ("failed", len(PAUSES) + 1, 503, None)
    assert DAY < waited < 1.5 * DAY
    assert office.outcomes() == {"retried": len(PAUSES), "failed": 1}
    office.later(10 * DAY)
    assert office.turn() == 0
    assert len(hook.got) == len(PAUSES) + 1


def test_a_receiver_that_asks_for_more_time_gets_it(office: Office, hook: Receiver) -> None:
    hook.answers = [(429, {"retry-after": "120"}, b"")]
    office.job(hook.url)
    office.turn()
    office.later(60)
    assert office.turn() == 0
    office.later(60)
    assert office.turn() == 1


def test_gone_means_never_again_for_that_tenant_and_address(office: Office, hook: Receiver) -> None:
    first, second = office.job(hook.url), office.job(hook.url)
    hook.answers = [410]
    office.turn(office.dispatcher(concurrency=1))
    office.turn()
    assert {office.last(each).state for each in (first, second)} == {"disabled"}
    later = office.job(hook.url)
    office.turn()
    assert (office.last(later).state, office.last(later).attempts) == ("disabled", 0)
    assert "410 Gone" in (office.last(later).last_error or "")
    assert len(hook.got) == 1
    others = office.job(hook.url, tenant="other"), office.job(hook.url.replace("a=1", "a=2"))
    office.turn()
    assert [office.last(each).state for each in others] == ["delivered"] * 2
    assert office.outcomes() == {"disabled": 3, "delivered": 2}


def test_a_replay_sends_it_again_and_wakes_an_address_that_was_gone(office: Office, hook: Receiver) -> None:
    hook.answers = [410, 500]
    record = office.job(hook.url)
    office.turn()
    office.outbox.replay("public", record.id)
    office.turn()
    assert (office.waiting(record).attempts, office.waiting(record).last_status) == (1, 500)
    later = office.job(hook.url)
    office.turn()
    assert office.last(later).state == "disabled", "as long as it has accepted nothing"
    office.later(PAUSES[0] * (1 + JITTER))
    office.turn()
    assert (office.last(record).state, office.last(record).attempts) == ("delivered", 2)
    assert {got.headers["webhook-id"] for got in hook.got} == {f"msg_{record.id}"}
    awake = office.job(hook.url)
    office.turn()
    assert office.last(awake).state == "delivered"


def test_a_replay_while_it_is_being_sent_is_not_lost(office: Office, hook: Receiver) -> None:
    record = office.job(hook.url)

    def replayed(connection: Any) -> None:
        office.outbox.replay("public", record.id)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    hook.answers = [replayed]
    assert [office.turn() for _ in range(3)] == [1, 1, 0]
    assert (len(hook.got), office.last(record).state, office.last(record).replays) == (2, "delivered", 1)


def test_a_job_that_is_deleted_is_told_no_more(office: Office, hook: Receiver) -> None:
    record, other = office.job(hook.url), office.job(hook.url)
    office.records.forget(record.tenant, record.id)
    office.turn()
    assert [json.loads(got.body)["data"]["id"] for got in hook.got] == [other.id]

    def deleted(connection: Any) -> None:
        office.records.forget(last.tenant, last.id)
        connection.sendall(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n")

    hook.answers, last = [deleted], office.job(hook.url)
    office.turn()
    for gone in (record, last):
        assert not [key for key in office.records.store.keys("") if gone.id in key]


def test_every_secret_signs_while_they_are_changed(office: Office, hook: Receiver) -> None:
    both = f"a-newer-secret-of-the-same-operators,{office.settings.webhook_secrets[0]}"
    office.settings = type(office.settings)(**(office.settings.model_dump() | {"webhook_secret": both}))
    office.job(hook.url)
    office.turn()
    for secret in office.settings.webhook_secrets:
        Webhook(tenant_secret(secret, "public")).verify(hook.got[0].body, hook.got[0].headers)
    assert hook.got[0].headers["webhook-signature"].count("v1,") == 2
