"""A worker process, put together: the one place where its parts are made and joined."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket

from prometheus_client import start_http_server

from service.contracts.catalog import load_models
from service.contracts.due import DueTimes
from service.contracts.outbox import Outbox
from service.contracts.queue import JobQueue, connect
from service.contracts.reconcile import Reconciler
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.contracts.store import open_store
from worker.jobs import Engine
from worker.metrics import WorkerMetrics
from worker.models.pool import Pool, pick_device
from worker.runner import EngineWorker
from worker.signing import load_signer


def run_worker(settings: Settings, parent: int | None = None) -> None:
    """Take jobs until SIGTERM or SIGINT. With `parent`, also until that process is gone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    queue = JobQueue(connect(settings), settings)
    queue.ping()  # a plain word where Redis is away, before anything is loaded
    store = open_store(settings, create=False)
    records = Records(store, Outbox(store, DueTimes(queue.connection)))
    pool = Pool(load_models(settings.models_file), pick_device(settings.device), settings.models_memory)
    metrics = WorkerMetrics()
    if settings.metrics_port and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        start_http_server(settings.metrics_port)
    name = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    engine = Engine(name, records, queue, pool, settings, metrics, load_signer(settings))
    reconciler = Reconciler(
        records,
        queue,
        seconds=settings.reconcile_seconds,
        lease=settings.lease_seconds,
        recovered=metrics.recoveries.inc,
    )

    def orphaned() -> None:
        nonlocal parent
        if parent is not None and os.getppid() != parent:
            parent = None  # once: a second signal means to break off the batch
            os.kill(os.getpid(), signal.SIGTERM)

    EngineWorker(name, queue, engine, pool, metrics, reconciler, settings, orphaned).work()
