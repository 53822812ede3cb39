"""Where batches come from: who waits for whom, who goes with whom, and what a lost answer leaves."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from service.contracts.errors import NotReady
from service.contracts.fair import Taken
from service.contracts.records import Record
from service.contracts.settings import Settings
from tests.helpers import wait_for
from tests.worker.deployment import PICTURE, Deployment
from worker.gather import Gatherer, Hands
from worker.jobs import Work

Gather = Callable[..., "Gathering"]


@pytest.fixture
def house(settings: Settings) -> Iterator[Deployment]:
    house = Deployment(settings.model_copy(update={"batch_wait_ms": 0}))
    yield house
    house.close()


class Gathering:
    """A gatherer and what it was given."""

    def __init__(self, house: Deployment, name: str, most: int, fetchers: ThreadPoolExecutor, **changed: Any) -> None:
        self.name, self.hands, self.stopping = name, Hands(), threading.Event()
        self.released: list[str] = []
        self.gatherer = Gatherer(
            name,
            house.queue,
            house.engine(name),
            self.hands,
            house.settings.model_copy(update=changed),
            fetchers,
            most=most,
            stopping=self.stopping,
            patient=lambda do: do(),
            release=self._release,
        )
        self._house = house

    def _release(self, ids: Any) -> None:
        self.released += ids
        self.hands.drop(ids)
        self._house.queue.release(self.name, ids)

    def __call__(self) -> list[list[str]]:
        return [[work.record.id for work in batch] for batch in self.gatherer.gather()]


@pytest.fixture
def gathering(house: Deployment) -> Iterator[Gather]:
    """gathering(name, most, **settings)"""
    with ThreadPoolExecutor(4) as fetchers:
        yield lambda name="w", most=4, **changed: Gathering(house, name, most, fetchers, **changed)


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


def test_nothing_waits(gathering: Gather) -> None:
    assert gathering()() == []


def test_what_goes_together_is_one_batch(house: Deployment, gathering: Gather) -> None:
    one = [house.submit(seed=str(seed), epsilon=str(seed + 1)) for seed in range(3)]
    other = [house.submit(steps="3") for _ in range(2)]
    one += [house.submit() for _ in range(3)]
    gather = gathering()
    assert [gather(), gather(), gather(), gather()] == [[ids(one[:4])], [ids(other)], [ids(one[4:])], []]
    assert sorted(gather.hands.ids()) == sorted(ids(one + other))
    assert len(gather.hands.works()) == 8


@pytest.mark.parametrize(("pixels", "size"), [(10**6, 4), (24 * 16 * 4, 4), (24 * 16 * 3, 3), (24 * 16, 1), (1, 1)])
def test_a_batch_has_no_more_pixels_than_it_may(pixels: int, size: int, house: Deployment, gathering: Gather) -> None:
    jobs = ids([house.submit() for _ in range(4)])
    batches = gathering(batch_pixels=pixels)()
    assert [len(batch) for batch in batches] == [size] * (4 // size) + [4 % size] * (4 % size > 0)
    assert [job_id for batch in batches for job_id in batch] == jobs


def test_a_batch_that_did_not_fit_makes_later_ones_of_its_kind_smaller(house: Deployment, gathering: Gather) -> None:
    gather = gathering(most=5)
    jobs = [house.submit() for _ in range(10)]
    (batch,) = gather.gatherer.gather()
    halves = gather.gatherer.halve(batch)
    assert [[work.record.id for work in half] for half in halves] == [ids(jobs[:2]), ids(jobs[2:5])]
    assert gather() == [ids(jobs[5:7]), ids(jobs[7:9]), ids(jobs[9:])]
    gather.gatherer.halve(halves[0])
    house.submit(steps="3")
    other = [house.submit(steps="3") for _ in range(2)]
    assert [len(batch) for batch in gather()] == [3], "of another kind nothing is known"
    for _ in range(2):
        house.submit()
    assert [len(batch) for batch in gather()] == [1, 1]
    assert other


def test_who_is_suspected_runs_alone(house: Deployment, gathering: Gather) -> None:
    jobs = [house.submit() for _ in range(4)]
    for index in (1, 2):
        house.records.save(jobs[index].model_copy(update={"deaths": 1}))
    assert gathering()() == [[jobs[0].id, jobs[3].id], [jobs[1].id], [jobs[2].id]]


def test_what_needs_no_doing_is_let_go(house: Deployment, gathering: Gather) -> None:
    jobs = [house.submit() for _ in range(4)]
    house.records.end(jobs[0], "failed")
    house.records.ask_to_end(jobs[1])
    house.records.forget("public", jobs[2].id)
    gather = gathering()
    assert gather() == [[jobs[3].id]]
    assert gather.released == ids(jobs[:3])
    assert gather.hands.ids() == [jobs[3].id]
    assert house.connection.hkeys("immunize:held") == [jobs[3].id.encode()]


# queues


@pytest.mark.parametrize(("share", "bulk"), [(0, 0), (0.2, 2), (0.5, 5), (1, 10)])
def test_bulk_gets_its_share_of_batches_and_does_not_starve(
    share: float, bulk: int, house: Deployment, gathering: Gather
) -> None:
    kind = {house.submit(priority=name).id: name for name in ("interactive", "bulk") for _ in range(10)}
    gather = gathering(most=1, bulk_share=share)
    order = [kind[gather()[0][0]] for _ in range(10)]
    assert Counter(order)["bulk"] == bulk
    if 0 < share < 1:
        first = order.index("bulk")
        assert first < 1 / share, "and not all of it in the end"
    rest = [kind[gather()[0][0]] for _ in range(10)]
    assert Counter(order + rest) == {"interactive": 10, "bulk": 10}, "whoever is alone has all"


def test_queues_are_not_mixed(house: Deployment, gathering: Gather) -> None:
    first, second = house.submit(), house.submit(priority="bulk")
    gather = gathering(batch_wait_ms=50, bulk_share=0)
    assert [gather(), gather()] == [[[first.id]], [[second.id]]]


# company


def later(house: Deployment, monkeypatch: pytest.MonkeyPatch, after: int, do: Callable[[], object]) -> list[int]:
    """`do` once the queue was looked at `after` times; how often it was."""
    take, looks = house.queue.take, [0]

    def taken(*arguments: Any, **named: Any) -> Taken:
        found = take(*arguments, **named)
        looks[0] += 1
        if looks[0] == after:
            do()
        return found

    monkeypatch.setattr(house.queue, "take", taken)
    return looks


def test_a_batch_waits_a_little_for_company(
    house: Deployment, gathering: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [house.submit()]
    later(house, monkeypatch, 2, lambda: jobs.extend([house.submit(steps="3"), house.submit()]))
    assert gathering(batch_wait_ms=9000, most=2)() == [[jobs[0].id, jobs[2].id]], "and no longer than for the last"
    assert house.queue.depth() == 1


@pytest.mark.parametrize(("wait", "most"), [(0, 4), (10_000, 1)], ids=["no wait", "no room"])
def test_nobody_waits_for_nothing(
    wait: int, most: int, house: Deployment, gathering: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.submit()
    looks = later(house, monkeypatch, 99, lambda: None)
    assert gathering(batch_wait_ms=wait, most=most)() == [[job.id]]
    assert looks == [1]


def test_a_worker_that_stops_waits_for_nobody(
    house: Deployment, gathering: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = gathering(batch_wait_ms=10_000)
    job = house.submit()
    looks = later(house, monkeypatch, 3, gather.stopping.set)
    assert gather() == [[job.id]]
    assert looks == [3]


# answers that are lost


def test_jobs_whose_taking_was_not_answered_go_back(
    house: Deployment, gathering: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = gathering(most=1)
    mine, lost = house.submit(), house.submit()
    assert gather() == [[mine.id]]

    def unanswered() -> None:
        raise NotReady("the queue is away")

    with monkeypatch.context() as patched:
        later(house, patched, 1, unanswered)
        with pytest.raises(NotReady):
            gather()
    assert house.connection.hget("immunize:held", lost.id) == b"w", "it was done all the same"
    assert gather() == [[lost.id]]
    assert house.connection.hlen("immunize:held") == 2
    assert sorted(gather.hands.ids()) == sorted([mine.id, lost.id])


def test_without_company_rather_than_not_at_all(
    house: Deployment, gathering: Gather, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = gathering(batch_wait_ms=10_000)
    first = house.submit()
    second: list[Record] = []

    def unanswered() -> None:
        raise NotReady("the queue is away")

    with monkeypatch.context() as patched:
        later(house, patched, 1, lambda: second.append(house.submit()))
        later(house, patched, 2, unanswered)
        assert gather() == [[first.id]]
    assert gathering("other")() == []
    gather.stopping.set()
    assert gather() == [[second[0].id]]


def test_two_gather_side_by_side_and_no_job_is_taken_twice(house: Deployment, gathering: Gather) -> None:
    jobs = ids([house.submit(tenant=tenant) for tenant in "abc" for _ in range(10)])
    taken: list[str] = []

    def work(name: str) -> None:
        gather = gathering(name, most=3)
        while batches := gather():
            taken.extend(job_id for batch in batches for job_id in batch)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(taken) == sorted(jobs)


# hands


def work(house: Deployment) -> Work:
    found = house.engine().fetch("public", house.submit(PICTURE.transpose(Image.Transpose.ROTATE_90)).id)
    assert found is not None
    return found


def test_what_is_dropped_is_over(house: Deployment) -> None:
    hands, kept, dropped = Hands(), work(house), work(house)
    hands.add([kept.record.id, dropped.record.id, "not fetched"])
    assert hands.works() == []
    hands.put(kept)
    hands.put(dropped)
    hands.drop([dropped.record.id, "not fetched", "unknown"])
    assert (hands.ids(), hands.works()) == ([kept.record.id], [kept])
    assert (dropped.over.is_set(), kept.over.is_set()) == (True, False)


def test_nothing_is_dropped_while_a_sign_of_life_is_on_its_way(house: Deployment) -> None:
    """Else what was just released or given back would be claimed again, and held by nobody for ever."""
    hands, held = Hands(), work(house)
    hands.put(held)
    dropped, order = threading.Event(), list[str]()

    def drop() -> None:
        hands.drop([held.record.id])
        order.append("dropped")
        dropped.set()

    def tell(told: list[str]) -> list[str]:
        thread.start()
        wait_for(thread.is_alive, "it begins to drop")
        assert not dropped.wait(0.1)
        order.append("told")
        return told

    thread = threading.Thread(target=drop)
    assert hands.told(tell) == [held.record.id]
    thread.join(10)
    assert order == ["told", "dropped"]
    assert hands.told(lambda told: told) == []
