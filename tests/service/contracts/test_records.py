"""Records: what the store says of a job, and in which order it learns it."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path

import pytest

from service.contracts.errors import NotFound, NotReady
from service.contracts.plan import Plan
from service.contracts.records import ABANDONED, Records, StoredResult, now, place
from service.contracts.schemas import JobError
from service.contracts.store import FolderStore


class Recording(FolderStore):
    """A folder that remembers what was put, and fails when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.puts: list[str] = []
        self.fails_at: int | None = None

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        if len(self.puts) == self.fails_at:
            raise NotReady("the disk is full", retry_after=5)
        self.puts.append(key)
        super().put(key, data, content_type)


@pytest.fixture
def store(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "store")


@pytest.fixture
def records(store: Recording) -> Records:
    return Records(store)


def test_a_record_comes_back_as_it_was_saved(records: Records, plan: Plan) -> None:
    record = records.create(
        "public", plan, b"image", key="k", mask=b"mask", priority="bulk", metadata={"album": 7, "name": "schöne"}
    )
    assert records.load("public", record.id) == record
    assert (record.status, record.attempts, record.deaths, record.begun, record.mask) == ("queued", 0, 0, [], True)
    assert (record.key, record.priority) == ("k", "bulk")
    assert record.created_at.tzinfo == UTC
    record.status, record.error = "failed", JobError(type="internal", detail="x")
    records.save(record)
    assert records.load("public", record.id) == record


def test_the_pending_mark_is_put_first_and_the_record_after_its_inputs(
    records: Records, store: Recording, plan: Plan
) -> None:
    record = records.create("public", plan, b"image", key="k", mask=b"mask", target=b"target")
    home = f"jobs/public/{record.id}"
    assert store.puts == [
        f"pending/public/{record.id}",
        f"{home}/image",
        f"{home}/mask",
        f"{home}/target",
        f"{home}/job.json",
    ]
    assert [store.get(name) for name in store.puts[1:4]] == [b"image", b"mask", b"target"]


@pytest.mark.parametrize("fails_at", range(5))
def test_a_store_that_fails_half_way_keeps_nothing(
    fails_at: int, records: Records, store: Recording, plan: Plan
) -> None:
    store.fails_at = fails_at
    with pytest.raises(NotReady):
        records.create("public", plan, b"image", key="k", mask=b"mask", target=b"target")
    assert list(store.keys("")) == []


@pytest.mark.parametrize("puts", range(5))
def test_what_a_gateway_that_died_half_way_left_is_found_and_cleared(
    puts: int, records: Records, store: Recording, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour = records.create("public", plan, b"image", key="k")
    before = set(store.keys(""))

    def dies(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(records, "forget", dies)
        store.fails_at = len(store.puts) + puts
        with pytest.raises(SystemExit):
            records.create("public", plan, b"image", key="k", mask=b"mask", target=b"target")
    left = [job_id for _, job_id in records.pending() if job_id != neighbour.id]
    assert len(left) == min(puts, 1), "whatever was stored is found by its mark"
    store.fails_at = None
    for job_id in left:
        records.clear("public", job_id)
        assert list(records.pending()) == pairs(neighbour.id, job_id), "it may still be under way"
        monkeypatch.setattr("service.contracts.records.now", lambda: now() + 2 * ABANDONED)
        records.clear("public", job_id)
    assert set(store.keys("")) == before


def pairs(*ids: str) -> list[tuple[str, str]]:
    return sorted(("public", job_id) for job_id in ids)


@pytest.mark.parametrize(
    ("tenant", "job_id"),
    [
        ("public", "0" * 32),
        ("other", None),
        ("public", "0" * 31),
        ("public", "A" * 32),
        ("public", "../../x"),
        ("public", ""),
        ("public", "job.json"),
    ],
)
def test_what_is_not_there_is_not_found(tenant: str, job_id: str | None, records: Records, plan: Plan) -> None:
    record = records.create("public", plan, b"image", key="k")
    with pytest.raises(NotFound):
        records.load(tenant, record.id if job_id is None else job_id)


@pytest.mark.parametrize("status", ["finished", "failed", "canceled"])
def test_an_ended_job_is_no_longer_pending(status: str, records: Records, store: Recording, plan: Plan) -> None:
    ended, waiting = (records.create("public", plan, b"image", key="k") for _ in range(2))
    assert sorted(records.pending()) == sorted([("public", ended.id), ("public", waiting.id)])
    records.end(ended, status)  # type: ignore[arg-type]
    assert list(records.pending()) == [("public", waiting.id)]
    loaded = records.load("public", ended.id)
    assert (loaded.status, loaded.ended) == (status, True)
    assert loaded.ended_at is not None
    assert loaded.created_at <= loaded.ended_at <= now()
    assert store.puts[-1].endswith("job.json"), "the record is written before the mark goes"


def test_a_record_of_an_earlier_version_is_read(records: Records, plan: Plan) -> None:
    record = records.create("public", plan, b"image", key="k")
    told = record.model_dump(mode="json", exclude={"priority", "key", "deaths", "begun"})
    records.store.put(place(record, "job.json"), json.dumps(told).encode())
    loaded = records.load("public", record.id)
    assert (loaded.priority, loaded.key, loaded.deaths, loaded.begun) == ("interactive", "", 0, [])


def test_to_be_asked_to_end_is_written_down(records: Records, store: Recording, plan: Plan) -> None:
    record = records.create("public", plan, b"image", key="k")
    assert not records.asked_to_end(record)
    records.ask_to_end(record)
    records.ask_to_end(record)
    assert records.asked_to_end(record)
    records.forget("public", record.id)
    assert list(store.keys("")) == []


@pytest.mark.parametrize("finished", [False, True])
def test_sweeping_leaves_the_job_and_its_result(finished: bool, records: Records, store: Recording, plan: Plan) -> None:
    record = records.create("public", plan, b"image", key="k", mask=b"mask", target=b"target")
    other = records.create("public", plan, b"image", key="k")
    records.ask_to_end(record)
    before = set(store.keys(""))
    for digest in ("1" * 64, "2" * 64):
        store.put(place(record, digest), b"result")
    if finished:
        result = place(record, "2" * 64)
        record.result = StoredResult(key=result, sha256="2" * 64, content_type="image/png", bytes=6)
        before.add(result)
    records.sweep(record)
    assert set(store.keys("")) == before
    assert store.get(place(other, "image")) == b"image"


def test_forgetting_leaves_the_neighbours(records: Records, store: Recording, plan: Plan) -> None:
    kept, gone = (records.create("public", plan, b"image", key="k", mask=b"mask") for _ in range(2))
    records.forget("public", gone.id)
    records.forget("public", gone.id)
    assert sorted(store.keys("")) == sorted(name for name in store.puts if kept.id in name)


def test_every_job_has_an_id_of_its_own(records: Records, plan: Plan) -> None:
    assert len({records.create("public", plan, b"", key="k").id for _ in range(20)}) == 20
