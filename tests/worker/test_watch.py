"""What is seen of a batch under way, and what ends it: without a word to Redis or the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from service.contracts.schemas import Progress
from service.contracts.settings import Settings
from tests.worker.deployment import Deployment
from worker.jobs import Work
from worker.watch import Drained, Over, TimeUp, Watch


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("worker.watch.time", clock)
    return clock


@pytest.fixture
def works(settings: Settings) -> Iterator[list[Work]]:
    house = Deployment(settings)
    engine = house.engine()
    found = [engine.fetch("public", house.submit().id) for _ in range(3)]
    yield [work for work in found if work is not None]
    house.close()


def watched(works: list[Work], **told: Any) -> Watch:
    return Watch(works, **({"seconds": 60, "drained": lambda: False, "halfway": lambda: None} | told))


LOSSES = torch.tensor([0.5, 0.25, 0.125])


def test_it_goes_on_while_anything_is_wanted(works: list[Work], clock: Clock) -> None:
    watch = watched(works)
    for step, work in enumerate(works, 1):
        watch.on_step(step, 9, LOSSES)
        work.over.set()
    with pytest.raises(Over):
        watch.on_step(4, 9, LOSSES)


def test_its_time_is_counted_by_a_clock_that_nobody_sets(works: list[Work], clock: Clock) -> None:
    watch = watched(works, seconds=5)
    assert watch.until == 1005
    clock.seconds += 5
    watch.on_step(1, 9, LOSSES)
    clock.seconds += 0.1
    with pytest.raises(TimeUp):
        watch.on_step(2, 9, LOSSES)


def test_it_ends_when_the_worker_must(works: list[Work], clock: Clock) -> None:
    over: list[bool] = []
    watch = watched(works, drained=lambda: bool(over), seconds=1)
    watch.on_step(1, 9, LOSSES)
    over.append(True)
    clock.seconds += 10
    with pytest.raises(Drained):  # before its time is: it is not the job's fault
        watch.on_step(2, 9, LOSSES)


@pytest.mark.parametrize(("steps", "first"), [(1, 1), (2, 1), (3, 2), (20, 10), (21, 11)])
def test_halfway_is_told_once(steps: int, first: int, works: list[Work]) -> None:
    told: list[int] = []
    now = 0
    watch = watched(works, halfway=lambda: told.append(now))
    for now in range(1, steps + 1):
        watch.on_step(now, steps, LOSSES)
    assert told == [first]


def test_progress_is_what_is_new(works: list[Work]) -> None:
    watch = watched(works)
    assert watch.progress() == {}
    watch.on_step(1, 9, LOSSES * 2)
    watch.on_step(2, 9, LOSSES)
    ids = [work.record.id for work in works]
    assert watch.progress() == {
        job_id: Progress(step=2, steps=9, loss=loss) for job_id, loss in zip(ids, (0.5, 0.25, 0.125), strict=True)
    }
    assert watch.progress() == {}
    works[1].over.set()
    watch.on_step(3, 9, LOSSES)
    assert set(watch.progress()) == {ids[0], ids[2]}, "nothing is told of what is over"
