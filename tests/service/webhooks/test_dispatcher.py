"""Who sends what and when: several gateways, wiped and absent Redis, killed senders, fairness between tenants."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from service.contracts.due import DueTimes
from service.contracts.errors import NotReady
from service.contracts.outbox import Outbox
from service.contracts.queue import connect
from service.contracts.records import Records
from service.contracts.store import FolderStore
from service.webhooks import dispatcher as module
from service.webhooks.dispatcher import LEASE_SECONDS
from service.webhooks.schedule import JITTER, PAUSES
from tests.helpers import wait_for
from tests.service.webhooks.conftest import Office
from tests.service.webhooks.receiver import Receiver, waits


class Broken(FolderStore):
    """A store that goes away when it is told to put something under that prefix."""

    away: str | None = None

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        if self.away is not None and key.startswith(self.away):
            raise NotReady("the store cannot be used just now")
        super().put(key, data, content_type)


@pytest.fixture
def broken(office: Office, tmp_path: Path) -> Broken:
    store = Broken(tmp_path / "broken")
    office.records = Records(store, Outbox(store, office.due))
    return store


def test_two_gateways_send_each_once(office: Office, hook: Receiver) -> None:
    jobs = [office.job(hook.url) for _ in range(40)]

    async def together() -> list[int]:
        return await asyncio.gather(*(office.dispatcher(concurrency=25, share=25).turn() for _ in range(2)))

    counts = asyncio.run(together())
    assert sum(counts) == 40
    assert min(counts) >= 15, "both had work"
    assert Counter(got.headers["webhook-id"] for got in hook.got) == {f"msg_{job.id}": 1 for job in jobs}


def test_a_gateway_that_dies_between_sending_and_noting_leaves_it_to_be_sent_again(
    office: Office, hook: Receiver, broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    record = office.job(hook.url)
    broken.away = f"jobs/public/{record.id}/webhook"
    assert office.turn() == 1
    assert "webhooks wait: the store cannot be used just now" in caplog.text
    broken.away = None
    assert office.turn() == 0, "as far as others know it is being sent"
    office.later(LEASE_SECONDS + 1)
    assert office.turn() == 1
    assert [got.headers["webhook-id"] for got in hook.got] == [f"msg_{record.id}"] * 2
    assert hook.got[0].body == hook.got[1].body
    assert office.last(record).state == "delivered"


def test_a_wiped_redis_loses_nothing(office: Office, hook: Receiver) -> None:
    hook.answers = [500]
    tried = office.job(hook.url)
    office.turn()
    untried, waiting = office.job(hook.url), office.job(None, status=None)
    with connect(office.settings) as connection:
        connection.flushall()
    dispatcher = office.dispatcher()
    assert office.turn(dispatcher) == 0
    assert [dispatcher.sweep(), dispatcher.sweep()] == [2, 0]
    assert office.turn(dispatcher) == 1
    assert office.last(untried).state == "delivered"
    office.later(PAUSES[0] * (1 + JITTER))
    assert office.turn(dispatcher) == 1
    assert (office.last(tried).attempts, dispatcher.sweep()) == (2, 0)
    assert office.outbox.last("public", waiting.id) is None


def test_a_redis_that_is_away_when_a_job_ends(office: Office, hook: Receiver) -> None:
    gone = office.settings.model_copy(update={"redis_url": "unix:///nowhere/redis.sock"})
    with connect(gone) as connection:
        records, there = (
            Records(office.records.store, Outbox(office.records.store, DueTimes(connection))),
            office.records,
        )
        office.records = records
        record = office.job(hook.url)
        with pytest.raises(NotReady):
            DueTimes(connection).take(0, 1, 1, 1, {})
    office.records = there
    assert office.turn() == 0
    assert office.dispatcher().sweep() == 1
    assert office.turn() == 1
    assert office.last(record).state == "delivered"


def test_the_outbox_is_written_before_the_record(office: Office, hook: Receiver, broken: Broken) -> None:
    record = office.job(hook.url, status=None)
    broken.away = f"jobs/public/{record.id}/job.json"
    with pytest.raises(NotReady):
        office.records.end(record, "finished")
    broken.away = None
    dispatcher = office.dispatcher()
    assert dispatcher.sweep() == 1
    assert office.turn(dispatcher) == 1
    assert hook.got == [], "the job has not ended yet"
    office.records.end(office.records.load("public", record.id), "failed")
    assert office.turn(dispatcher) == 1
    assert (len(hook.got), office.last(record).state) == (1, "delivered")
    broken.away = "outbox/"
    other = office.job(hook.url, status=None)
    with pytest.raises(NotReady):
        office.records.end(other, "finished")
    assert not office.records.load("public", other.id).ended, "it ends once its webhook is written"


def test_an_entry_that_cannot_be_read_begins_anew(office: Office, hook: Receiver) -> None:
    record = office.job(hook.url)
    office.records.store.put(f"outbox/public/{record.id}", b"of another version")
    office.later(1)
    office.turn()
    assert office.last(record).state == "delivered"


def test_what_is_no_entry_is_passed_over(office: Office, hook: Receiver) -> None:
    record = office.job(hook.url)
    for key in ("outbox/somebodys-file", "outbox/public/deeper/down", "outbox/public/.DS_Store"):
        office.records.store.put(key, b"")
    with connect(office.settings) as connection:
        connection.flushall()
    dispatcher = office.dispatcher()
    assert dispatcher.sweep() == 1
    office.turn(dispatcher)
    assert (office.last(record).state, dispatcher.sweep()) == ("delivered", 0)


def test_tenants_are_served_in_turn(office: Office, hook: Receiver) -> None:
    for _ in range(20):
        office.job(hook.url, tenant="many")
    for name in ("one", "two"):
        office.job(hook.url, tenant=name)
    now = office.clock()
    taken = [tenant for _ in range(3) for tenant, _ in office.due.take(now, 60, 2, 10, {})]
    assert Counter(taken) == {"many": 4, "one": 1, "two": 1}
    assert taken.index("one") < 4 > taken.index("two")


def test_nobody_has_more_than_a_share(office: Office, hook: Receiver) -> None:
    for tenant in ["slow"] * 8 + ["quick"] * 3:
        office.job(hook.url if tenant == "quick" else hook.url.replace("a=1", "slow"), tenant=tenant)
    assert len(office.due.take(office.clock(), 60, 50, 4, {"slow": 3, "other": 9})) == 1 + 3
    assert office.due.take(office.clock(), 60, 50, 4, {"slow": 4}) == []

    over = threading.Event()
    hook.answers = [waits(over)] * 4
    office.later(61)
    sending = threading.Thread(target=office.turn, args=(office.dispatcher(concurrency=8, share=4),))
    sending.start()
    wait_for(lambda: sum("slow" in got.path for got in hook.got) == 4, "one tenant's share is on its way")
    assert office.turn(office.dispatcher(share=4)) == 4, "another gateway takes what is left"
    over.set()
    sending.join(10)


def test_in_its_thread_it_sends_what_comes_and_stops(
    office: Office, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    hook.answers = [500, waits(over)]
    first = office.job(hook.url)
    with connect(office.settings) as connection:
        connection.flushall()
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    dispatcher = office.dispatcher()
    dispatcher.start()
    wait_for(lambda: office.waiting(first).attempts == 1, "found by the first sweep, and sent")
    second = office.job(hook.url)
    wait_for(lambda: len(hook.got) == 2, "sent")
    threading.Timer(0.2, over.set).start()
    dispatcher.stop()
    assert office.waiting(second).attempts == 1, "what was on its way was waited for"
    assert not any(thread.name == "webhooks" for thread in threading.enumerate())


def test_a_receiver_that_hangs_does_not_keep_the_gateway_from_stopping(
    office: Office, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    hook.answers = [waits(over)]
    record = office.job(hook.url)
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    dispatcher = office.dispatcher()
    dispatcher.start()
    wait_for(lambda: hook.got, "sent")
    began = time.monotonic()
    dispatcher.stop()
    assert time.monotonic() - began < 3
    over.set()
    assert office.waiting(record).attempts == 0
    office.later(LEASE_SECONDS + 1)
    office.turn()
    assert office.last(record).state == "delivered"


def test_it_outlives_a_redis_that_is_away(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "AWAY_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)
    with connect(office.settings.model_copy(update={"redis_url": "unix:///nowhere/redis.sock"})) as connection:
        office.due = DueTimes(connection)
        dispatcher = office.dispatcher()
        dispatcher.start()
        wait_for(lambda: caplog.text.count("webhooks wait: the queue cannot be used") > 2, "it goes on asking")
        dispatcher.stop()
