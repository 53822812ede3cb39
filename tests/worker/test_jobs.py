"""A job's way through a worker, and all that can come between two of its steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from PIL import Image

from service.contracts.errors import NotReady
from service.contracts.records import Begun, Record, now, place
from service.contracts.schemas import JobError, Status
from service.contracts.settings import Settings
from tests.helpers import png
from tests.worker.deployment import Deployment, made
from worker.delivery import Delivery
from worker.jobs import Engine, Work

BROKEN = JobError(type="broken", detail="broken on purpose")


@pytest.fixture
def house(settings: Settings) -> Iterator[Deployment]:
    house = Deployment(settings)
    yield house
    house.close()


def snapshot(house: Deployment) -> dict[str, bytes]:
    return {key: house.store.get(key) for key in house.store.keys("")}


def test_a_job_from_first_to_last(house: Deployment) -> None:
    record, engine = house.submit(), house.engine("host-1")
    work = engine.fetch("public", record.id)
    assert work is not None
    assert not work.suspect
    assert house.load(record) == record, "to fetch a job changes nothing"
    engine.begin(work)
    running = house.load(record)
    assert (running.status, running.attempts, running.deaths) == ("running", 1, 0)
    assert [each.worker for each in running.begun] == ["host-1"]
    assert running.started_at == running.begun[0].at
    assert record.created_at <= running.begun[0].at <= now()
    engine.finish(work, made(engine, work))
    data, done = house.delivered(record), house.load(record)
    assert done.result is not None
    assert done.result.key == place(record, hashlib.sha256(data).hexdigest())
    assert (done.attempts, done.begun) == (1, running.begun)
    assert done.report is not None
    assert done.report.batch == 1
    labels = {"method": "encoder", "model": "tiny", "status": "finished"}
    assert house.counted("immunize_jobs_total", **labels) == 1


def test_whatever_is_done_twice_changes_nothing(house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    work = house.begun(record)
    delivery = made(engine, work)
    engine.finish(work, delivery)
    before = snapshot(house)
    engine.finish(work, delivery)
    engine.fail(work, BROKEN)
    engine.cancel(work)
    engine.unbegin(work)
    assert engine.retry(work, "once more")
    assert engine.fetch("public", record.id) is None
    assert engine.fetch("public", "0" * 32) is None
    assert snapshot(house) == before
    assert house.counted("immunize_jobs_total", method="encoder", model="tiny", status="finished") == 1


# what a fetch finds, and what it makes of it: is it taken up, how did it end, with which deaths
FOUND: dict[str, tuple[dict[str, Any], bool, Status, str | None, int]] = {
    "new": ({}, True, "queued", None, 0),
    "given back": ({"attempts": 2}, True, "queued", None, 0),
    "its worker died": ({"status": "running", "attempts": 1}, True, "running", None, 1),
    "suspected before": ({"attempts": 1, "deaths": 1}, True, "queued", None, 1),
    "two died": ({"status": "running", "attempts": 2, "deaths": 1}, False, "failed", "poison", 2),
    "three died": ({"status": "running", "attempts": 3, "deaths": 2}, False, "failed", "poison", 3),
    "begun three times": ({"attempts": 3}, False, "failed", "worker-died", 0),
    "the third died": ({"status": "running", "attempts": 3}, False, "failed", "worker-died", 1),
    "finished": ({"status": "finished"}, False, "finished", None, 0),
    "failed": ({"status": "failed"}, False, "failed", None, 0),
    "canceled": ({"status": "canceled"}, False, "canceled", None, 0),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_a_fetch_makes_of_what_it_finds(case: str, house: Deployment) -> None:
    found, taken, status, error, deaths = FOUND[case]
    record = house.submit()
    house.records.save(record.model_copy(update=found))
    work = house.engine().fetch("public", record.id)
    assert (work is not None) == taken
    there = house.load(record)
    assert (there.status, there.error and there.error.type) == (status, error)
    if work is None:
        assert house.pending() == []
        assert there.deaths == (deaths if error else 0)
        assert there.begun == record.begun, "no other worker began it"
    else:
        assert (work.record.deaths, work.suspect) == (deaths, deaths > 0)
        house.engine().begin(work)
        assert house.load(record).deaths == deaths, "a death is written down when the next attempt begins"


def test_workers_that_die_one_after_the_other(house: Deployment) -> None:
    record = house.submit()
    house.begun(record, "first")
    second = house.begun(record, "second")
    assert second.suspect
    assert house.engine("third").fetch("public", record.id) is None
    there = house.load(record)
    assert there.error is not None
    assert (there.status, there.error.type, there.attempts, there.deaths) == ("failed", "poison", 2, 2)
    assert [each.worker for each in there.begun] == ["first", "second"]
    assert house.beside(record) == {"job.json", "image"}, "it is kept for inspection"


def test_an_attempt_that_was_broken_off_does_not_count(house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    for number in range(1, 6):
        work = house.begun(record)
        assert not work.suspect
        engine.unbegin(work)
        there = house.load(record)
        assert (there.status, there.attempts, there.deaths, len(there.begun)) == ("queued", 0, 0, number)
    engine.unbegin(work)
    assert house.load(record).attempts == 0, "not twice"
    waiting = engine.fetch("public", record.id)
    assert waiting is not None
    engine.unbegin(waiting)
    assert house.load(record).attempts == 0, "it was not begun"


@pytest.mark.parametrize("too_late", [False, True])
def test_breaking_off_is_tried_until_it_is_done(too_late: bool, house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    work = house.begun(record)
    turn = len(house.store.writes)
    house.store.fails, house.store.too_late = (lambda at: at == turn), too_late
    with pytest.raises(NotReady):
        engine.unbegin(work)
    engine.unbegin(work)
    there = house.load(record)
    assert (there.status, there.attempts) == ("queued", 0)


def test_an_attempt_that_failed_for_no_certain_reason_is_made_again(house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    for attempt in (1, 2):
        work = house.begun(record)
        assert engine.retry(work, "who knows")
        there = house.load(record)
        assert (there.status, there.attempts, there.deaths, there.error) == ("queued", attempt, 0, None)
    assert not engine.retry(house.begun(record), "who knows")
    there = house.load(record)
    assert there.error is not None
    assert (there.status, there.attempts, there.error.type) == ("failed", 3, "internal")
    assert "who knows" not in there.error.detail
    assert house.counted("immunize_job_retries_total") == 2


# inputs


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("image", b"text", "not-an-image"),
        ("image", png(Image.new("L", (9, 9)))[:50], "invalid-field"),
        ("mask", b"text", "not-an-image"),
        ("mask", png(Image.new("L", (9, 9))), "invalid-field"),
        ("mask", png(Image.new("L", (24, 16), 255)), "invalid-field"),
    ],
)
def test_a_picture_that_cannot_be_read_fails_its_job(name: str, data: bytes, error: str, house: Deployment) -> None:
    record = house.submit(mask=png(Image.new("L", (24, 16))))
    house.store.put(place(record, name), data)
    assert house.engine().fetch("public", record.id) is None
    there = house.load(record)
    assert there.error is not None
    assert (there.status, there.error.type, there.attempts) == ("failed", error, 0)
    assert house.pending() == []


def test_a_picture_that_is_gone_fails_its_job(house: Deployment) -> None:
    record = house.submit()
    house.store.delete(place(record, "image"))
    assert house.engine().fetch("public", record.id) is None
    there = house.load(record)
    assert there.error is not None
    assert (there.status, there.error.type) == ("failed", "not-found")


def test_a_bug_in_reading_fails_the_job_and_tells_no_secrets(
    house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object, **__: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr("worker.inputs.read_picture", bug)
    record = house.submit()
    assert house.engine().fetch("public", record.id) is None
    there = house.load(record)
    assert there.error is not None
    assert there.error.type == "internal"
    assert "swordfish" not in there.model_dump_json()


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"id": 5}', b"\xff"])
def test_a_record_that_cannot_be_read_is_passed_over(data: bytes, house: Deployment) -> None:
    record = house.submit()
    house.store.put(place(record, "job.json"), data)
    assert house.engine().fetch("public", record.id) is None
    assert house.store.get(place(record, "job.json")) == data, "it is kept for inspection"


@pytest.mark.parametrize("read", ["jobs/", "image"])
def test_while_the_store_is_away_nothing_is_decided(
    read: str, house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, get = house.submit(), house.store.get

    def away(key: str) -> bytes:
        if read in key:
            raise NotReady("the store is away")
        return get(key)

    with monkeypatch.context() as patched:
        patched.setattr(house.store, "get", away)
        with pytest.raises(NotReady):
            house.engine().fetch("public", record.id)
    assert house.load(record) == record


# canceled


def ask(house: Deployment, record: Record, *, forgotten: bool) -> None:
    """As the gateway does. Redis may have been wiped since."""
    assert house.queue.claim(record.id, "canceled") == "canceled"
    house.records.ask_to_end(record)
    if forgotten:
        house.connection.flushall()


def is_canceled(house: Deployment, record: Record) -> None:
    there = house.load(record)
    assert (there.status, there.result, there.error) == ("canceled", None, None)
    assert house.beside(record) == {"job.json", "image", "cancel"}
    assert house.pending() == []


@pytest.mark.parametrize("forgotten", [False, True], ids=["Redis knows", "Redis was wiped"])
@pytest.mark.parametrize("when", ["fetch", "finish", "fail", "cancel", "give up"])
def test_a_cancel_is_honoured_whatever_the_job_was_about_to_do(when: str, forgotten: bool, house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    if when == "fetch":
        ask(house, record, forgotten=forgotten)
        assert engine.fetch("public", record.id) is None
    else:
        work = house.begun(record)
        delivery = made(engine, work)
        work.record.attempts = 3 if when == "give up" else 1
        house.records.save(work.record)
        ask(house, record, forgotten=forgotten)
        ends: dict[str, Callable[[], object]] = {
            "finish": lambda: engine.finish(work, delivery),
            "fail": lambda: engine.fail(work, BROKEN),
            "cancel": lambda: engine.cancel(work),
            "give up": lambda: engine.retry(work, "it failed for the third time"),
        }
        ends[when]()
    is_canceled(house, record)


def test_a_job_that_was_decided_to_finish_is_not_canceled(house: Deployment) -> None:
    record = house.submit()
    work = house.begun(record)
    assert house.queue.claim(record.id, "finished") == "finished"
    house.engine().finish(work, made(house.engine(), work))
    house.delivered(record)


def test_a_job_finishes_while_redis_is_away(house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    record = house.submit()
    work = house.begun(record)

    def away(*_: object) -> None:
        raise NotReady("the queue is away")

    monkeypatch.setattr(house.queue, "claim", away)
    house.engine().finish(work, made(house.engine(), work))
    house.delivered(record)


def test_what_is_not_wanted_any_more_is_not_begun(house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    work = engine.fetch("public", record.id)
    assert work is not None
    work.over.set()
    engine.cancel(work)
    engine.begin(work)
    there = house.load(record)
    assert (there.status, there.begun, work.begun) == ("canceled", [], False)
    assert house.pending() == []


def test_a_cancel_waits_for_a_beginning_that_is_under_way(house: Deployment) -> None:
    """Else it would end a record that is about to be written as running."""
    import threading

    record, engine = house.submit(), house.engine()
    work = engine.fetch("public", record.id)
    assert work is not None
    canceling = threading.Thread(target=engine.cancel, args=(work,))

    def meanwhile(_: str) -> None:
        work.over.set()
        canceling.start()
        canceling.join(0.2)

    house.store.before_put = meanwhile
    engine.begin(work)
    canceling.join(30)
    assert house.load(record).status == "canceled"
    assert house.pending() == []


# overtaken


def other_bytes(work: Work, made: list[Delivery]) -> list[Delivery]:
    return [Delivery(each.data + b"\0", each.content_type, each.report) for each in made]


Meanwhile = Callable[[Deployment, Record], None]


def begins(house: Deployment, record: Record) -> None:
    house.begun(record, "other")


def finishes(house: Deployment, record: Record) -> None:
    work = house.begun(record, "other")
    house.engine("other").finish(work, made(house.engine(), work))


def finishes_otherwise(house: Deployment, record: Record) -> None:
    """On another device the same seed may give other bytes."""
    work = house.begun(record, "other")
    house.engine("other").finish(work, other_bytes(work, made(house.engine(), work)))


def fails(house: Deployment, record: Record) -> None:
    house.engine("other").fail(house.begun(record, "other"), BROKEN)


def is_forgotten(house: Deployment, record: Record) -> None:
    house.records.forget(record.tenant, record.id)


@pytest.mark.parametrize("during", ["before", "put"])
@pytest.mark.parametrize("meanwhile", [begins, finishes, finishes_otherwise, fails, is_forgotten])
def test_an_attempt_that_was_overtaken_delivers_nothing(meanwhile: Meanwhile, during: str, house: Deployment) -> None:
    record, slow = house.submit(), house.engine("slow")
    work = house.begun(record, "slow")
    delivery = made(slow, work)
    if during == "before":
        meanwhile(house, record)
    else:
        house.store.before_put = lambda _: meanwhile(house, record)
    slow.finish(work, delivery)
    slow.fail(work, BROKEN)
    slow.cancel(work)
    slow.unbegin(work)
    if meanwhile is is_forgotten:
        assert list(house.store.keys("")) == []
        return
    there = house.load(record)
    assert [each.worker for each in there.begun] == ["slow", "other"]
    if meanwhile is fails:
        assert (there.status, there.error, there.result) == ("failed", BROKEN, None)
        assert house.beside(record) == {"job.json", "image"}
        return
    if meanwhile is begins:
        assert (there.status, there.attempts, there.result) == ("running", 2, None)
        assert house.pending() == [record.id]
        work = Work(there, work.items, begun=True)
        house.engine("other").finish(work, other_bytes(work, delivery))
    data = house.delivered(record)
    assert (data == delivery[0].data) == (meanwhile is finishes)


@pytest.mark.parametrize("meanwhile", [begins, finishes, finishes_otherwise, fails, is_forgotten])
def test_of_several_sizes_an_overtaken_attempt_leaves_none(meanwhile: Meanwhile, house: Deployment) -> None:
    record, slow = house.submit(sizes="original,12,8"), house.engine("slow")
    work = house.begun(record, "slow")
    delivery = made(slow, work)
    assert len({each.data for each in delivery}) == 3

    def before_put(_: str) -> None:
        house.store.before_put = lambda _: meanwhile(house, record)  # before the second of its results

    house.store.before_put = before_put
    slow.finish(work, delivery)
    if meanwhile is is_forgotten:
        assert list(house.store.keys("")) == []
        return
    there = house.load(record)
    if meanwhile is begins:
        house.engine("other").finish(Work(there, work.items, work.renditions, begun=True), other_bytes(work, delivery))
        there = house.load(record)
    if meanwhile is fails:
        assert (there.status, there.renditions) == ("failed", [])
        assert house.beside(record) == {"job.json", "image"}
        return
    assert [each.name for each in there.renditions] == ["original", "12", "8"]
    assert house.beside(record) == {"job.json", "image"} | {each.result.sha256 for each in there.renditions}
    for each in there.renditions:
        assert len(house.store.get(each.result.key)) == each.result.bytes


def test_an_earlier_attempts_result_goes_however_the_job_ends(house: Deployment) -> None:
    """Of a worker that died between its result and its record."""

    def attempted() -> Record:
        record = house.submit()
        house.begun(record, "dead")
        house.store.put(place(record, "1" * 64), b"a result")
        return record

    ends: list[tuple[Callable[[Engine, Work], object], Status]] = [
        (lambda engine, work: engine.finish(work, made(engine, work)), "finished"),
        (lambda engine, work: engine.fail(work, BROKEN), "failed"),
        (lambda engine, work: engine.cancel(work), "canceled"),
    ]
    for end, status in ends:
        record = attempted()
        end(house.engine(), house.begun(record))
        there = house.load(record)
        assert there.status == status
        results = {there.result.sha256} if there.result else set()
        assert house.beside(record) == {"job.json", "image"} | results
    record = attempted()
    house.begun(record, "dead too")
    assert house.engine().fetch("public", record.id) is None
    assert house.beside(record) == {"job.json", "image"}


# a store that fails

WRITES = 5  # of an attempt: job.json, pending, the result, job.json, the mark's deletion


def attempt(house: Deployment, record: Record, patiently: Callable[[Callable[[], Any]], Any], name: str = "w") -> bool:
    """Whether the job was there to be done."""
    engine = house.engine(name)
    work = patiently(lambda: engine.fetch("public", record.id))
    if work is None:
        return False
    patiently(lambda: engine.begin(work))
    delivery = made(engine, work)
    patiently(lambda: engine.finish(work, delivery))
    return True


def never_finished_without_its_result(house: Deployment, record: Record) -> None:
    there = house.load(record)
    assert (there.status == "finished") == (there.result is not None)
    if there.result is not None:
        assert hashlib.sha256(house.store.get(there.result.key)).hexdigest() == there.result.sha256
    if not there.ended:
        assert house.pending() == [record.id], "whatever has not ended is found again"


def test_the_writes_of_an_attempt(house: Deployment) -> None:
    record = house.submit()
    before = len(house.store.writes)
    attempt(house, record, lambda do: do())
    result = house.load(record).result
    assert result is not None
    assert house.store.writes[before:] == [
        f"put {place(record, 'job.json')}",
        f"put pending/public/{record.id}",
        f"put {result.key}",
        f"put {place(record, 'job.json')}",
        f"delete pending/public/{record.id}",
    ]


@pytest.mark.parametrize("too_late", [False, True], ids=["not written", "written, and not answered"])
@pytest.mark.parametrize("turn", range(WRITES))
def test_a_store_that_fails_once_at_any_write(turn: int, too_late: bool, house: Deployment) -> None:
    record, failed = house.submit(), 0
    first = len(house.store.writes)
    house.store.fails, house.store.too_late = (lambda at: at == first + turn), too_late

    def patiently(do: Callable[[], Any]) -> Any:
        nonlocal failed
        while True:
            try:
                return do()
            except NotReady:
                failed += 1
                never_finished_without_its_result(house, record)

    assert attempt(house, record, patiently)
    assert failed == 1
    house.delivered(record)
    there = house.load(record)
    assert (there.attempts, there.deaths, len(there.begun)) == (1, 0, 1)


class Crashed(Exception):
    pass


@pytest.mark.parametrize("too_late", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize("turn", range(WRITES))
def test_a_worker_that_dies_at_any_write(turn: int, too_late: bool, house: Deployment) -> None:
    record = house.submit()
    first = len(house.store.writes)
    house.store.fails, house.store.too_late = (lambda at: at >= first + turn), too_late

    def dying(do: Callable[[], Any]) -> Any:
        try:
            return do()
        except NotReady as error:
            raise Crashed from error

    with pytest.raises(Crashed):
        attempt(house, record, dying)
    never_finished_without_its_result(house, record)
    house.store.fails = lambda _: False
    ended = house.load(record).ended
    assert attempt(house, record, lambda do: do(), "next") != ended
    house.delivered(record)
    there = house.load(record)
    begun = ["w"] * (turn > 0 or too_late) + ["next"] * (not ended)
    assert [each.worker for each in there.begun] == begun
    assert there.attempts == len(begun)
    assert there.deaths == len(begun) - 1


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("end", ["fail", "cancel", "retry"])
def test_an_end_that_fails_is_tried_again(end: str, turn: int, house: Deployment) -> None:
    record, engine = house.submit(), house.engine()
    work = house.begun(record)
    first = len(house.store.writes)
    house.store.fails = lambda at: at == first + turn
    ends: dict[str, tuple[Callable[[], object], Status]] = {
        "fail": (lambda: engine.fail(work, BROKEN), "failed"),
        "cancel": (lambda: engine.cancel(work), "canceled"),
        "retry": (lambda: engine.retry(work, "why"), "queued"),
    }
    do, status = ends[end]
    for _ in range(3):
        try:
            do()
            break
        except NotReady:
            continue
    there = house.load(record)
    assert (there.status, there.attempts) == (status, 1)
    assert house.pending() == ([record.id] if status == "queued" else [])


def test_clocks_that_jump_do_not_matter(house: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are told apart by number, never by time."""
    record = house.submit()
    monkeypatch.setattr("worker.jobs.now", lambda: now() + timedelta(days=400))
    slow = house.begun(record, "ahead")
    monkeypatch.setattr("worker.jobs.now", lambda: now() - timedelta(days=400))
    work = house.begun(record, "behind")
    engine = house.engine()
    delivery = made(engine, work)
    engine.finish(slow, delivery)
    assert house.load(record).status == "running"
    engine.finish(work, delivery)
    house.delivered(record)


def test_a_begun_attempt_names_its_worker_and_time(house: Deployment) -> None:
    work = house.begun(house.submit(), "host-12-ab")
    told = house.load(work.record).model_dump(mode="json")["begun"]
    assert [Begun.model_validate(each).worker for each in told] == ["host-12-ab"]
