"""`immunize serve`: everything on one machine. Redis, gateway and workers, started in order and stopped in reverse."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from service.auth import check_exposure
from service.contracts.errors import BadField
from service.contracts.queue import JobQueue, connect
from service.contracts.settings import PREFIX, load_settings
from service.embedded import EmbeddedRedis
from service.listen import address, listen

DRAIN_SECONDS = 30.0
RESTART_SECONDS = 1.0


def serve(host: str, port: int, data: Path, workers: int) -> None:
    """Run until SIGINT or SIGTERM. Jobs and results stay in `data`; the next run goes on with them."""
    # uvicorn raises the signal that stopped it once more: it must unwind this function, not kill the process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    warning = check_exposure(host, load_settings())
    with _lock(data), listen(host, port) as listener, EmbeddedRedis(data / "redis") as server:
        metrics = data / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()
        os.environ |= {
            f"{PREFIX}REDIS_URL": server.url,
            f"{PREFIX}METRICS_PORT": "0",
            "PROMETHEUS_MULTIPROC_DIR": str(metrics.resolve()),
        }
        os.environ.setdefault(f"{PREFIX}STORE_URL", (data / "store").resolve().as_uri())
        settings = load_settings()
        with connect(settings) as connection:
            JobQueue(connection, settings).forget_workers()

        from service.app import create_app  # only now: prometheus_client looks at the environment when it is imported

        config = uvicorn.Config(
            create_app(settings), log_level="warning", access_log=False, timeout_graceful_shutdown=10
        )
        gateway = _Announcing(config, address(listener))
        if warning:
            print(f"immunize: {warning}", file=sys.stderr)
        with _Workers(workers):
            gateway.run(sockets=[listener])


class _Announcing(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"immunize: listening on {self._address} (docs at {self._address}/docs)", flush=True)


class _Workers:
    """Worker processes, begun again when they end."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="workers", daemon=True)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Workers:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + DRAIN_SECONDS
        for process in self._processes:
            try:
                process.wait(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _keep(self) -> None:
        self._processes = [_begin() for _ in range(self._count)]
        while not self._over.wait(RESTART_SECONDS):
            for index, process in enumerate(self._processes):
                if process.poll() is not None:
                    print(
                        f"immunize: a worker ended with status {process.returncode}; beginning another", file=sys.stderr
                    )
                    self._processes[index] = _begin()


def _begin() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "service.cli", "worker", "--parent", str(os.getpid())]
    return subprocess.Popen(command, start_new_session=True)  # noqa: S603


@contextmanager
def _lock(data: Path) -> Iterator[None]:
    """Hold the folder for this process alone."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        handle = (data / "serve.lock").open("w")
    except OSError as error:
        raise BadField(f"--data: the folder cannot be written ({error.strerror}); give one that can") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadField(
                "--data: another `immunize serve` uses this folder; stop it or give another folder"
            ) from None
        yield
