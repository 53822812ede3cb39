"""A whole deployment on loopback."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx2

from tests.chaos.outage import StoreFolder
from tests.chaos.processes import Process, RedisServer, free_port, immunize
from tests.chaos.registry import write_registry
from tests.chaos.supervisor import Supervisor
from tests.helpers import wait_for

START_SECONDS = 120.0


class House:
    """`with House(folder, workers=3, pause=0.05, settings={...}) as house`: Redis, gateway, workers and a store.

    Nothing of it runs afterwards. `settings` are of gateway and workers, without their prefix.
    """

    def __init__(self, folder: Path, *, workers: int, pause: float, settings: Mapping[str, object]) -> None:
        self._folder, self._count = folder, workers
        self.redis = RedisServer(folder / "redis")
        self.store = StoreFolder(folder / "store")
        ours = {
            "REDIS_URL": self.redis.url,
            "STORE_URL": self.store.root.as_uri(),
            "MODELS_FILE": write_registry(folder / "models.toml", pause),
            "DEVICE": "cpu",
            "METRICS_PORT": 0,
        }
        self._environ = {f"IMMUNIZE_{name}": str(value) for name, value in (ours | dict(settings)).items()}
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._gateway: Process | None = None
        self.supervisor = Supervisor(self._worker, workers)
        self.complaints: list[str] = []

    def __enter__(self) -> House:
        try:
            self.redis.start()
            wait_for(self.redis.ready, "Redis answers")
            self.supervise()
            wait_for(self._ready, "the gateway is ready", seconds=START_SECONDS)
            wait_for(self._announced, "every worker has given a sign of life", seconds=START_SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def supervise(self) -> None:
        """Begin whatever has ended again. A gateway never ends by itself, not even while all else is away."""
        self.supervisor.tick()
        status = None if self._gateway is None else self._gateway.status()
        if status is not None:
            self.complaints.append(f"the gateway ended by itself with status {status}")
        if self._gateway is None or status is not None:
            arguments = ("gateway", "--host", "127.0.0.1", "--port", str(self._port))
            self._gateway = immunize(*arguments, log=self._folder / "gateway.log", environ=self._environ)

    def traces(self) -> int:
        """How many tracebacks stand in the logs of gateway and workers."""
        text = "".join(log.read_text(errors="replace") for log in self._folder.glob("*.log"))
        return len(re.findall(r"^Traceback", text, re.MULTILINE))

    def _worker(self) -> Process:
        return immunize("worker", log=self._folder / "workers.log", environ=self._environ)

    def _ready(self) -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.address}/readyz").is_success
        return False

    def _announced(self) -> bool:
        for worker in self.supervisor.workers:
            if worker.process.status() is not None:
                raise RuntimeError(f"a worker did not start: {worker.process.log.read_text()[-2000:]}")
        with self.redis.connect() as connection:
            return sum(1 for _ in connection.scan_iter("immunize:missing:*")) >= self._count

    def _end(self) -> None:
        """Whatever happened: the store stands where it stood, and nothing runs."""
        endings: list[Callable[[], object]] = [self.supervisor.kill]
        if self._gateway is not None:
            endings.append(self._gateway.end)
        for end in [*endings, self.redis.stop, self.store.come_back]:
            with suppress(Exception):
                end()
