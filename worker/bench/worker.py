"""What a worker makes of its device: jobs through the real queue, store and loop, for several batch sizes.

The queue is the Redis of IMMUNIZE_REDIS_URL, which must have no jobs; the store is a temporary folder. `optimizing` is
the share of the time in which the optimisation ran: what is missing to 1 is fetching, decoding, encoding, storing and
bookkeeping that was not hidden behind it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from service.contracts.batching import batch_key
from service.contracts.catalog import load_models
from service.contracts.errors import BadField
from service.contracts.plan import make_plan
from service.contracts.queue import JobQueue, connect
from service.contracts.reconcile import Reconciler
from service.contracts.records import Records
from service.contracts.settings import Settings, load_settings
from service.contracts.store import open_store
from worker.bench.output import circumstances, say, table
from worker.bench.pictures import load_crops
from worker.bench.subject import Subject, pick_subject
from worker.images import to_picture
from worker.jobs import Engine
from worker.metrics import WorkerMetrics
from worker.runner import EngineWorker


@dataclass(frozen=True)
class Throughput:
    batch_max: int
    jobs: int
    seconds: float  # from the first job's taking to the last one's end
    images_per_second: float
    optimizing: float  # share of the seconds
    utilization: float | None  # of the GPU as its driver tells it, mean of the samples in [0,1]; None on a CPU


class _Loaded:
    """The subject in place of a pool."""

    def __init__(self, subject: Subject) -> None:
        self.device, self._model = subject.device, subject.encoder

    def get_all(self, names: Sequence[str]) -> list[Any]:
        return [self._model for _ in names]

    def missing(self) -> Mapping[str, str]:
        return {}


def bench_worker(options: argparse.Namespace) -> None:
    subject = pick_subject(options)
    size = options.size or subject.size
    x = load_crops(options.images, options.jobs, size)
    settings = load_settings()
    rows = []
    with connect(settings) as connection:
        queue = JobQueue(connection, settings)
        queue.ping()
        if queue.depth():
            raise BadField("IMMUNIZE_REDIS_URL: jobs wait there; give a Redis that nobody else uses")
        for count in sorted({int(each) for each in options.batches.split(",")}):
            say(f"{options.jobs} jobs, at most {count} together")
            rows.append(_run(subject, x, settings, count, options))
    told = circumstances(
        subject.device, options.dtype, model=subject.name, size=size, steps=options.steps, jobs=options.jobs
    )
    if options.json:
        json.dump({"circumstances": told, "throughput": [asdict(row) for row in rows]}, sys.stdout, indent=2)
        print()
        return
    print(", ".join(f"{name} {value}" for name, value in told.items()))
    print()
    head = ("batch_max", "jobs", "seconds", "images/s", "optimizing", "GPU utilization")
    cells = [
        (row.batch_max, row.jobs, row.seconds, row.images_per_second, row.optimizing, row.utilization or "-")
        for row in rows
    ]
    print("\n".join(table([head, *cells])))


def _run(subject: Subject, x: Tensor, settings: Settings, batch: int, options: argparse.Namespace) -> Throughput:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    with tempfile.TemporaryDirectory() as folder:
        settings = settings.model_copy(
            update={"store_url": Path(folder).resolve().as_uri(), "batch_max": batch, "job_timeout": 86_400}
        )
        with connect(settings) as connection:
            queue, records = JobQueue(connection, settings), Records(open_store(settings))
            _warm(subject, x[:batch])
            _submit(x, options, queue, records)
            name = f"bench-{batch}"
            engine = Engine(name, records, queue, _Loaded(subject), settings, metrics)
            reconciler = Reconciler(records, queue, seconds=3600, lease=settings.lease_seconds)
            worker = EngineWorker(name, queue, engine, _Loaded(subject), metrics, reconciler, settings)
            with _Sampled(subject.device) as sampled:
                began = time.perf_counter()
                worker.work(burst=True)
                seconds = time.perf_counter() - began
    optimizing = registry.get_sample_value("immunize_job_seconds_sum", {"method": "encoder", "stage": "optimize"})
    ended = registry.get_sample_value(
        "immunize_jobs_total", {"method": "encoder", "model": "reference-autoencoder", "status": "finished"}
    )
    if ended != options.jobs or optimizing is None:
        raise RuntimeError(f"{ended or 0:g} of {options.jobs} jobs finished")
    return Throughput(batch, options.jobs, seconds, options.jobs / seconds, optimizing / seconds, sampled.mean())


class _Sampled:
    """How busy the GPU's driver says that it is, five times a second. Needs NVML's bindings; silent without."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._over, self._values = device, threading.Event(), list[float]()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Sampled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def mean(self) -> float | None:
        return sum(self._values) / len(self._values) if self._values else None

    def _sample(self) -> None:
        while self._device.type == "cuda" and not self._over.wait(0.2):
            try:
                self._values.append(torch.cuda.utilization(self._device) / 100)
            except (ModuleNotFoundError, RuntimeError):
                return


def _submit(x: Tensor, options: argparse.Namespace, queue: JobQueue, records: Records) -> None:
    for number in range(options.jobs):
        plan = make_plan({"steps": str(options.steps), "seed": str(number)}, load_models(None))
        file = io.BytesIO()
        picture = to_picture(x[number % len(x)][None])
        picture.save(file, "PNG")
        key = batch_key(plan, picture.size, mask=False, target=None)
        queue.enqueue(records.create("public", plan, file.getvalue(), key=key))


def _warm(subject: Subject, x: Tensor) -> None:
    """Kernels are chosen and memory is claimed before the clock runs."""
    leaf = x.to(subject.device).requires_grad_()
    torch.autograd.grad(subject.encoder.encode(leaf).float().square().mean(), leaf)
