"""A short run of the chaos program, and its proof itself: whatever is wrong with a store must be found."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from tests.chaos.handmade import CANCELED, FAILED, MASKED, PLAIN, T0, Handmade, write
from tests.chaos.ledger import Promise
from tests.chaos.load import Mix, make_asks
from tests.chaos.outage import StoreFolder
from tests.chaos.proof import prove
from tests.chaos.recovery import recoveries
from tests.chaos.report import shown, summary
from tests.chaos.run import Options, run
from tests.chaos.schedule import make_schedule
from tests.chaos.supervisor import Exit
from tests.chaos.verdict import exits, late
from tests.helpers import png


@pytest.mark.timeout(300)
def test_a_short_run(tmp_path: Path) -> None:
    options = Options(
        mix=Mix(40, broken=1, deadly=1),
        workers=2,
        seed=11,
        counts={"kill": 2, "stop": 1, "redis-restart": 1, "redis-wipe": 1, "store-outage": 1, "cancel": 2},
        outage=3,
        redis_down=1,
        lease=3,
        reconcile=1,
        bound=150,
    )
    done = run(options, tmp_path)
    told = summary(done, tmp_path / "store")
    assert not done.violations, shown(told)
    assert told["jobs"] == 40
    assert {event["what"] for event in told["events"]} == set(options.counts)
    assert told["ends"]["failed (poison)"] >= 1, "the deadly one"
    assert told["ends"]["finished"] >= 34
    assert done.recoveries, "a kill met a worker with a job in its hands"


def _begun(seconds: float) -> list[dict[str, str]]:
    return [{"worker": "host-12-aa", "at": (T0 + timedelta(seconds=seconds)).isoformat()}]


def _fate(kept: Handmade, job_id: str, fate: Any) -> None:
    kept.ledger.promised(Promise(job_id, 4.0, fate))


def _one_inverted(kept: Handmade) -> Image.Image:
    """The result, but for a single pixel."""
    made = kept.moved_by(3)
    made.paste(ImageChops.invert(made.crop((9, 9, 10, 10))), (9, 9))
    return made


Break = Callable[[Handmade], object]
BREAKS: dict[str, tuple[Break, str]] = {
    "the record is gone": (lambda k: (k.home(PLAIN) / "job.json").unlink(), "has no record"),
    "the record is half written": (lambda k: write(k.home(PLAIN) / "job.json", b'{"id"'), "has no record"),
    "still queued": (lambda k: k.change(PLAIN, status="queued"), "it is queued"),
    "still running": (lambda k: k.change(PLAIN, status="running"), "it is running"),
    "ended, but when": (lambda k: k.change(PLAIN, ended_at=None), "when it ended"),
    "a result is gone": (lambda k: k.result(PLAIN).unlink(), "its result is gone"),
    "a wrong hash": (lambda k: k.result(PLAIN).write_bytes(png(k.picture)), "hash is not its name"),
    "another name": (lambda k: k.result(PLAIN).rename(k.home(PLAIN) / ("0" * 64)), "not the one that its record names"),
    "another size": (
        lambda k: k.change(PLAIN, result=k.record(PLAIN)["result"] | {"bytes": 1}),
        "another size or place",
    ),
    "another place": (
        lambda k: k.change(PLAIN, result=k.record(PLAIN)["result"] | {"key": "elsewhere"}),
        "another size or place",
    ),
    "not a picture": (lambda k: k.redeliver(PLAIN, b"text"), "does not open"),
    "half a picture": (
        lambda k: k.redeliver(PLAIN, k.result(PLAIN).read_bytes()[:3000]),
        "does not open",
    ),
    "over its budget": (
        lambda k: k.redeliver(PLAIN, png(k.moved_by(5))),
        "over its budget: 5 > 4",
    ),
    "one pixel over": (
        lambda k: k.redeliver(PLAIN, png(_one_inverted(k))),
        "over its budget",
    ),
    "nothing changed": (lambda k: k.redeliver(PLAIN, png(k.picture)), "nothing in it was changed"),
    "another shape": (lambda k: k.redeliver(PLAIN, png(k.moved_by(3).crop((0, 0, 64, 40)))), "and it was"),
    "under the mask": (lambda k: k.redeliver(MASKED, png(k.moved_by(3))), "under its mask"),
    "a false report": (lambda k: k.change(PLAIN, report={"linf_255": 2}), "its report says 2"),
    "another budget planned": (lambda k: k.change(PLAIN, plan={"norm": "linf", "epsilon": 9}), "was asked for"),
    "two results": (lambda k: write(k.home(PLAIN) / ("0" * 64)), "2 results"),
    "the input is gone": (lambda k: (k.home(PLAIN) / "image").unlink(), "its image is gone"),
    "the mask is gone": (lambda k: (k.home(MASKED) / "mask").unlink(), "its mask is gone"),
    "something beside it": (lambda k: write(k.home(PLAIN) / "tmp123"), "beside its record: tmp123"),
    "a folder of no job": (lambda k: write(k.home("e" * 32) / "image"), "without a record"),
    "a job of nobody": (
        lambda k: write(k.home("e" * 32) / "job.json", b'{"id": ""}'),
        "nobody got a 202",
    ),
    "half written": (lambda k: write(k.root / ".staging" / "tmp1"), "an orphan: .staging/tmp1"),
    "a file at the top": (lambda k: write(k.root / "x"), "an orphan: x"),
    "pending": (lambda k: write(k.root / "pending" / "public" / PLAIN), "pending mark"),
    "failed with a result": (lambda k: write(k.home(FAILED) / ("0" * 64)), "it is failed and has a result"),
    "failed for no reason": (lambda k: k.change(FAILED, error=None), "without a reason"),
    "failed for a bug": (
        lambda k: k.change(FAILED, error={"type": "internal", "detail": "..."}),
        r"\(good\) failed as internal",
    ),
    "poison too soon": (lambda k: k.change(FAILED, deaths=1), "poison after 1 deaths"),
    "a deadly one finished": (lambda k: _fate(k, PLAIN, "deadly"), "it was deadly, and finished"),
    "canceled with a result": (lambda k: write(k.home(CANCELED) / ("0" * 64)), "it is canceled and has a result"),
    "canceled, and it names a result": (lambda k: k.change(CANCELED, result={"sha256": "x"}), "and has a result"),
    "canceled by nobody": (lambda k: k.change(PLAIN, status="canceled", result=None), "nobody asked"),
    "asked to end by nobody": (lambda k: write(k.home(PLAIN) / "cancel"), "and nobody did"),
    "begun after its cancel": (lambda k: k.change(CANCELED, begun=_begun(8)), "3.0 s after its cancel"),
    "finished after its cancel": (
        lambda k: k.ledger.canceled.update({PLAIN: T0 + timedelta(seconds=5)}),
        "its cancel got a 202, and it finished",
    ),
}


def test_a_good_store_is_found_good(tmp_path: Path) -> None:
    kept = Handmade(tmp_path / "store")
    assert prove(kept.root, kept.ledger) == []
    kept.change(CANCELED, begun=_begun(5.5))  # the worker was just about to
    assert prove(kept.root, kept.ledger) == []


@pytest.mark.parametrize("name", BREAKS)
def test_whatever_is_wrong_is_found(name: str, tmp_path: Path) -> None:
    kept = Handmade(tmp_path / "store")
    breaks, told = BREAKS[name]
    breaks(kept)
    found = prove(kept.root, kept.ledger)
    assert found
    with pytest.raises(AssertionError, match=told):
        assert not found, "\n".join(found)


def test_a_schedule_is_whole_and_the_same_for_its_seed() -> None:
    counts = {"kill": 20, "cancel": 5, "redis-restart": 4, "store-outage": 4}
    events = make_schedule(7, counts)  # type: ignore[arg-type]
    assert events == make_schedule(7, counts) != make_schedule(8, counts)  # type: ignore[arg-type]
    kills = [event for event in events if event.what == "kill" or event.kill]
    assert len(kills) == 20
    assert any(event.kill for event in events)
    assert len([event for event in events if event.what == "cancel"]) == 5
    assert events == sorted(events, key=lambda event: event.share)
    assert 0 < events[0].share < events[-1].share < 1
    assert make_asks(7, Mix(9, broken=1)) == make_asks(7, Mix(9, broken=1)) != make_asks(8, Mix(9, broken=1))


def test_a_recovery_is_from_the_kill_to_the_next_begin() -> None:
    def record(*begun: tuple[int, float], ended: float | None = None) -> dict[str, Any]:
        times = [{"worker": f"a-host-{pid}-ff", "at": (T0 + timedelta(seconds=at)).isoformat()} for pid, at in begun]
        return {
            "id": "x",
            "begun": times,
            "ended_at": None if ended is None else (T0 + timedelta(seconds=ended)).isoformat(),
        }

    kills = {1: T0 + timedelta(seconds=10)}

    def found(*begun: tuple[int, float], ended: float | None = None) -> list[float | None]:
        return [each.seconds for each in recoveries([record(*begun, ended=ended)], kills)]

    assert found((1, 5), (2, 22), ended=30) == [12]
    assert found((1, 5), ended=25) == [15]
    assert found((1, 5)) == [None]
    assert found((1, 5), ended=9) == []
    assert found((1, 5), (2, 8), ended=12) == []
    assert found((2, 5), ended=12) == []
    assert late(recoveries([record((1, 5))], kills), [])
    assert late(recoveries([record((1, 5), (2, 71), ended=80)], kills), [])
    assert not late(recoveries([record((1, 5), (2, 69), ended=80)], kills), [])


def test_a_worker_that_ends_by_itself_is_noticed() -> None:
    def ended(status: int, told: signal.Signals | None = None, seconds: float = 100) -> list[str]:
        at = T0 + timedelta(seconds=seconds)
        return exits([Exit(1, status, T0, at, told, 1.0 if told else None)], [], drain=5, deadly=0)

    assert ended(0) == ["worker 1 ended by itself with status 0"]
    assert ended(1)
    assert ended(-9) == ["0 deadly jobs killed 1 workers, and each may kill two"]
    assert ended(-9, signal.SIGTERM) == ended(-9)
    assert ended(1, signal.SIGTERM)
    assert ended(-15, signal.SIGTERM)
    assert not ended(-15, signal.SIGTERM, seconds=1)
    assert not ended(-9, signal.SIGKILL)
    assert not ended(0, signal.SIGTERM)


def test_what_is_written_while_the_store_is_away_is_noticed(tmp_path: Path) -> None:
    store = StoreFolder(tmp_path / "store")
    (store.root / "ours").touch()
    store.go_away()
    assert not store.here
    write(store.root / "jobs" / "theirs")
    store.come_back()
    store.come_back()
    assert (store.here, store.strays) == (True, ["jobs/theirs"])
    assert sorted(path.name for path in store.root.iterdir()) == [".staging", "ours"]
