"""Gateway, Redis and two workers on a host each; the host of the one that works is cut off, and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.client import Client
from service.contracts.schemas import Job
from tests.chaos.hosts import Network, NoRights
from tests.chaos.kept import read_jobs
from tests.chaos.ledger import Ledger, Promise
from tests.chaos.outage import StoreFolder
from tests.chaos.processes import Process, RedisServer, immunize
from tests.chaos.proof import prove
from tests.chaos.recovery import holder
from tests.chaos.registry import write_registry
from tests.helpers import wait_for

WORKERS = ("one", "two")
LEASE = 5.0
PAUSE = 0.2  # seconds that a pass through the model takes
LONG, SHORT = 70, 2  # steps: some fourteen seconds, longer than a lease and a new beginning; less than one
RECOVERED = 60.0
PORT = 6379


@dataclass
class Hosts:
    """What runs where. `call(f)` calls f(client) on the gateway's host."""

    network: Network
    store: StoreFolder
    workers: dict[str, Process]
    call: Callable[[Callable[[Client], Any]], Any]

    def record(self, job: Job) -> dict[str, Any]:
        return read_jobs(self.store.root, [job.id])[job.id].record

    def begun_by(self, job: Job) -> str | None:
        """The host whose worker began the job last."""
        pid = holder(self.record(job))
        return next((host for host, worker in self.workers.items() if worker.pid == pid), None)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    try:
        network = Network(["gateway", "redis", *WORKERS]).__enter__()
    except NoRights as error:
        pytest.skip(str(error))
    running: list[Process] = []
    store = StoreFolder(tmp_path / "store")
    server = RedisServer(tmp_path / "redis", network.address("redis"), PORT, network.prefix("redis"))
    environ = {
        "IMMUNIZE_REDIS_URL": server.url,
        "IMMUNIZE_STORE_URL": store.root.as_uri(),
        "IMMUNIZE_MODELS_FILE": str(write_registry(tmp_path / "models.toml", PAUSE)),
        "IMMUNIZE_DEVICE": "cpu",
        "IMMUNIZE_ALLOW_ANONYMOUS": "true",
        "IMMUNIZE_METRICS_PORT": "0",
        "IMMUNIZE_LEASE_SECONDS": f"{LEASE:g}",
        "IMMUNIZE_RECONCILE_SECONDS": "1",
    }

    def start(host: str, *arguments: str) -> Process:
        log = tmp_path / f"{host}.log"
        running.append(immunize(*arguments, log=log, environ=environ, prefix=network.prefix(host)))
        return running[-1]

    try:
        with network.thread("gateway") as thread, Client(f"http://{network.address('gateway')}:8000") as client:

            def call(do: Callable[[Client], Any]) -> Any:
                return thread.submit(do, client).result(timeout=60)

            server.start()
            start("gateway", "gateway", "--host", network.address("gateway"), "--port", "8000")
            workers = {host: start(host, "worker") for host in WORKERS}
            wait_for(lambda: call(Client.ready), "the gateway reaches Redis", seconds=90)
            yield Hosts(network, store, workers, call)
    finally:
        for process in running:
            process.kill()
        server.stop()
        network.__exit__(None, None, None)


@pytest.mark.timeout(300)
def test_a_host_is_cut_off_and_comes_back(hosts: Hosts, image: bytes, photograph: Image.Image) -> None:
    def submit(steps: int) -> Job:
        job: Job = hosts.call(lambda client: client.submit(image, models="paced", steps=steps, epsilon=8, seed=1))
        return job

    def ended(job: Job) -> bool:
        return bool(hosts.call(lambda client: client.job(job.id)).status == "finished")

    long = submit(LONG)
    cut = wait_for(lambda: hosts.begun_by(long), "a worker has begun the job", seconds=90)
    (other,) = set(WORKERS) - {cut}
    hosts.network.cut(cut)
    wait_for(lambda: hosts.begun_by(long) == other, "the other worker has begun the job", seconds=RECOVERED)
    meanwhile = submit(SHORT)
    wait_for(lambda: ended(long) and ended(meanwhile), "the other worker has done both", seconds=RECOVERED)
    assert [hosts.record(job)["attempts"] for job in (long, meanwhile)] == [2, 1]
    assert hosts.begun_by(meanwhile) == other

    hosts.network.mend(cut)
    jobs = [long, meanwhile]

    def works_again() -> bool:
        """Whether the worker that was cut off has done one of a few more jobs."""
        if all(ended(job) for job in jobs):
            jobs.extend(submit(SHORT) for _ in range(4))
        return any(hosts.begun_by(job) == cut and ended(job) for job in jobs[2:])

    wait_for(works_again, "the worker that was cut off goes on", seconds=RECOVERED)
    wait_for(lambda: all(ended(job) for job in jobs), "all is done", seconds=RECOVERED)
    assert hosts.record(long)["begun"][-1]["worker"] == hosts.record(long)["begun"][1]["worker"], (
        "nobody began it again"
    )
    for worker in hosts.workers.values():
        worker.signal(signal.SIGTERM)
    assert [worker.popen.wait(timeout=60) for worker in hosts.workers.values()] == [0, 0]
    ledger = Ledger()
    for job in jobs:
        ledger.promised(Promise(job.id, 8.0))
    assert prove(hosts.store.root, ledger) == []
