"""A worker in this process, for as long as jobs wait."""

from __future__ import annotations

import signal

from prometheus_client import CollectorRegistry

from service.contracts.catalog import load_models
from service.contracts.due import DueTimes
from service.contracts.outbox import Outbox
from service.contracts.queue import JobQueue, connect
from service.contracts.reconcile import Reconciler
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.contracts.store import open_store


def burst(settings: Settings) -> CollectorRegistry:
    """Run every job that waits; what the worker counted."""
    from worker.jobs import Engine
    from worker.metrics import WorkerMetrics
    from worker.models.pool import Pool, pick_device
    from worker.runner import EngineWorker
    from worker.signing import load_signer

    registry = CollectorRegistry()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with connect(settings) as connection:
        queue = JobQueue(connection, settings)
        store = open_store(settings)
        records = Records(store, Outbox(store, DueTimes(connection)))
        pool = Pool(load_models(settings.models_file), pick_device(settings.device))
        metrics = WorkerMetrics(registry)
        engine = Engine("burst", records, queue, pool, settings, metrics, load_signer(settings))
        reconciler = Reconciler(records, queue, seconds=settings.reconcile_seconds, lease=settings.lease_seconds)
        worker = EngineWorker("burst", queue, engine, pool, metrics, reconciler, settings)
        try:
            worker.work(burst=True)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return registry
