"""What the gateway counts (Prometheus), and the text that it answers at /metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.contracts.catalog import PRIORITIES
from service.contracts.errors import NotReady
from service.contracts.queue import JobQueue
from service.webhooks.schedule import OUTCOMES

log = logging.getLogger(__name__)


class QueueCollector(Collector):
    """Depth and age of the queue, asked of Redis when Prometheus asks."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("immunize_queue_depth", "Jobs that wait.", labels=["queue"])
        oldest = GaugeMetricFamily(
            "immunize_queue_oldest_seconds", "Seconds that the job which waits longest has waited.", labels=["queue"]
        )
        try:
            for queue in PRIORITIES:
                depth.add_metric([queue], self._queue.depth(queue))
                oldest.add_metric([queue], self._queue.oldest_seconds(queue))
        except NotReady:
            log.warning("the queue is away: its depth and age are not shown")
        yield depth
        yield oldest
        build = GaugeMetricFamily("immunize_build_info", "Version, as a label; always 1.", labels=["version"])
        build.add_metric([version("immunize")], 1)
        yield build


class GatewayMetrics:
    """One set per app. With PROMETHEUS_MULTIPROC_DIR set (as `immunize serve` does), /metrics shows every process."""

    def __init__(self, queue: JobQueue) -> None:
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        own = CollectorRegistry()
        self.rejected = Counter("immunize_rejected", "Requests that were refused, by reason.", ["reason"], registry=own)
        self.webhooks = Counter(
            "immunize_webhooks", "Attempts to deliver a webhook, by outcome.", ["outcome"], registry=own
        )
        for outcome in OUTCOMES:
            self.webhooks.labels(outcome)
        self._registry = CollectorRegistry() if self._shared else own
        if self._shared:
            multiprocess.MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self._registry)
        self._registry.register(QueueCollector(queue))

    def text(self) -> bytes:
        return generate_latest(self._registry)
