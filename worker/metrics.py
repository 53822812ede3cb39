"""What a worker counts (Prometheus)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class WorkerMetrics:
    """One set per process, in the given registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.jobs = Counter(
            "immunize_jobs",
            "Jobs that ended, by method, model and status.",
            ["method", "model", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "immunize_job_seconds",
            "Seconds a job spent in each stage: queued, fetch, optimize, store, total.",
            ["method", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.evaluations = Counter(
            "immunize_gradient_evaluations", "Gradients of the objective taken.", ["method", "model"], registry=registry
        )
        self.batch = Histogram(
            "immunize_batch_size", "Pictures optimised together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.recoveries = Counter(
            "immunize_job_recoveries",
            "Jobs that were put back after their worker died, or after Redis had lost them.",
            registry=registry,
        )
        self.retries = Counter("immunize_job_retries", "Attempts that failed and may be made again.", registry=registry)
        self.memory = Gauge(
            "immunize_gpu_memory_bytes",
            "Device memory in bytes, by GPU and kind: allocated, reserved, peak, used, total.",
            ["gpu", "kind"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.heartbeat = Gauge(
            "immunize_worker_last_heartbeat_seconds",
            "When a worker last said that it lives, in seconds since the epoch.",
            multiprocess_mode="mostrecent",
            registry=registry,
        )

    @contextmanager
    def stage(self, method: str, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.labels(method, stage).observe(time.perf_counter() - began)

    def beat(self) -> None:
        """Called at every heartbeat."""
        self.heartbeat.set_to_current_time()
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            kinds = {
                "allocated": torch.cuda.memory_allocated(index),
                "reserved": torch.cuda.memory_reserved(index),
                "peak": torch.cuda.max_memory_allocated(index),
                "used": total - free,
                "total": total,
            }
            for kind, value in kinds.items():
                self.memory.labels(str(index), kind).set(value)
