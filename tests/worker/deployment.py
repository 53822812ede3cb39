"""A queue, a store and jobs for a worker's tests; a store that fails and models that wait or break, when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from prometheus_client import CollectorRegistry
from torch import Tensor

from service.contracts.batching import batch_key
from service.contracts.catalog import Priority, load_models
from service.contracts.errors import NotReady
from service.contracts.plan import make_plan
from service.contracts.queue import JobQueue, connect
from service.contracts.reconcile import Reconciler
from service.contracts.records import Record, Records, place
from service.contracts.settings import Settings
from service.contracts.store import FolderStore
from tests.helpers import opened, png, wait_for
from tests.worker.conftest import SmallEncoder
from worker.delivery import Delivery
from worker.jobs import Engine, Work
from worker.metrics import WorkerMetrics
from worker.runner import EngineWorker

PICTURE = Image.linear_gradient("L").resize((24, 16)).convert("RGB")


class Faulty(FolderStore):
    """A folder whose writes (puts and deletes) fail when `fails(turn)` says so, before or after they were made.

    While it is `away` nothing works, and `refused` counts."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.away, self.refused = False, 0
        self.writes: list[str] = []
        self.fails: Callable[[int], bool] = lambda _: False
        self.too_late = False
        self.before_put: Callable[[str], None] = lambda _: None

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        before, self.before_put = self.before_put, lambda _: None
        before(key)
        with self._turn(f"put {key}"):
            super().put(key, data, content_type)

    def delete(self, key: str) -> None:
        with self._turn(f"delete {key}"):
            super().delete(key)

    def get(self, key: str) -> bytes:
        self._here()
        return super().get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        self._here()
        return super().keys(prefix)

    def _here(self) -> None:
        if self.away:
            self.refused += 1
            raise NotReady("the store is away", retry_after=5)

    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        self._here()
        self.writes.append(what)
        broken = self.fails(len(self.writes) - 1)
        if broken and not self.too_late:
            raise NotReady("the store is away", retry_after=5)
        yield
        if broken:
            raise NotReady("the store was away before it answered", retry_after=5)


class Models:
    """In place of a pool: a small encoder under every name, which calls `on_call` with what it encodes."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.network = SmallEncoder(4, 8, None, 0)
        self.on_call: Callable[[Tensor], None] = lambda _: None
        self.multiple = 8

    def encode(self, x: Tensor) -> Tensor:
        self.on_call(x)
        return self.network.encode(x)

    def get_all(self, names: Sequence[str]) -> list[Any]:
        return [self for _ in names]

    def missing(self) -> Mapping[str, str]:
        return {}


class Gate:
    """`models.on_call = gate` holds the model at every gradient until `open()`; `reached` tells that it is there."""

    def __init__(self, after: int = 0) -> None:
        self.reached, self._way, self._before = threading.Event(), threading.Event(), after

    def __call__(self, x: Tensor) -> None:
        if x.requires_grad and not self._way.is_set():
            self._before -= 1
            if self._before < 0:
                self.reached.set()
                assert self._way.wait(60), "nobody opened the gate"

    def open(self) -> None:
        self._way.set()


class Deployment:
    """Everything but the gateway, in this process. `close` it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalog = load_models(settings.models_file)
        self.connection = connect(settings)
        self.queue = JobQueue(self.connection, settings)
        self.store = Faulty(Path(settings.store_url.removeprefix("file://")))
        self.records = Records(self.store)
        self.models = Models()
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)

    def close(self) -> None:
        self.connection.close()

    def submit(
        self,
        picture: Image.Image = PICTURE,
        *,
        tenant: str = "public",
        priority: Priority = "interactive",
        mask: bytes | None = None,
        data: bytes | None = None,
        **fields: str,
    ) -> Record:
        """As the gateway does."""
        plan = make_plan({"models": "tiny", "steps": "2", "seed": "1"} | fields, self.catalog)
        record = self.records.create(
            tenant,
            plan,
            png(picture) if data is None else data,
            key=batch_key(plan, picture.size, mask=mask is not None, target=None),
            mask=mask,
            priority=priority,
        )
        self.queue.enqueue(record)
        return record

    def engine(self, name: str = "w") -> Engine:
        return Engine(name, self.records, self.queue, self.models, self.settings, self.metrics)

    def begun(self, record: Record, name: str = "w") -> Work:
        """The job in the hands of that worker, begun."""
        engine = self.engine(name)
        work = engine.fetch(record.tenant, record.id)
        assert work is not None
        engine.begin(work)
        return work

    def worker(self, name: str = "w", on_beat: Callable[[], None] = lambda: None, **changed: Any) -> EngineWorker:
        settings = self.settings.model_copy(update=changed)
        queue = JobQueue(self.connection, settings)
        reconciler = Reconciler(
            self.records,
            queue,
            seconds=settings.reconcile_seconds,
            lease=settings.lease_seconds,
            recovered=self.metrics.recoveries.inc,
        )
        engine = Engine(name, self.records, queue, self.models, settings, self.metrics)
        return EngineWorker(name, queue, engine, self.models, self.metrics, reconciler, settings, on_beat)

    @contextmanager
    def working(self, name: str = "w", **changed: Any) -> Iterator[EngineWorker]:
        """A worker in a thread; told to stop in the end, and it must."""
        worker = self.worker(name, **changed)
        failed: list[BaseException] = []

        def work() -> None:
            try:
                worker.work()
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        thread = threading.Thread(target=work, name=name)
        thread.start()
        try:
            yield worker
        finally:
            stop(worker)
            thread.join(timeout=60)
        assert not thread.is_alive(), "it does not end"
        assert not failed, failed

    def load(self, record: Record) -> Record:
        return self.records.load(record.tenant, record.id)

    def wait(self, record: Record, status: str = "finished", seconds: float = 30) -> Record:
        wait_for(lambda: self.load(record).status == status, f"the job is {status}", seconds=seconds)
        return self.load(record)

    def beside(self, record: Record) -> set[str]:
        """The names of what lies beside a record."""
        return {key.rpartition("/")[2] for key in self.store.keys(place(record, ""))}

    def delivered(self, record: Record) -> bytes:
        """The result, after a look at all that must be true of a finished job."""
        found = self.load(record)
        assert (found.status, found.error) == ("finished", None)
        assert found.result is not None
        assert found.report is not None
        data = self.store.get(found.result.key)
        inputs = {"job.json", "image"} | ({"mask"} if found.mask else set())
        assert self.beside(record) == inputs | {found.result.sha256}
        assert len(data) == found.result.bytes
        assert opened(data).size == (found.report.width, found.report.height)
        assert self.pending() == []
        return data

    def pending(self) -> list[str]:
        return [job_id for _, job_id in self.records.pending()]

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0


def stop(worker: EngineWorker) -> None:
    """As SIGTERM does."""
    worker._told_to_stop()


def made(engine: Engine, work: Work) -> list[Delivery]:
    (immunized,) = engine.optimize([work], lambda *_: None)
    return engine.encode(work, immunized)
