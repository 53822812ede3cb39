"""The processes of a deployment: how each is begun, where it writes, how it is ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis

from service.embedded import find_server

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 15.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Process:
    """A child in a session of its own, so that Ctrl-C reaches us alone. What it says is appended to its log."""

    def __init__(
        self, command: Sequence[str], log: Path, environ: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> None:
        self.log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMMUNIZE_", "PROMETHEUS_"))}
        # threads that wait for one another must not spin: several workers share a few cores
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=kept | quiet | dict(environ),
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def status(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self.popen.poll()

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end, insist after `seconds`; its exit status."""
        self.popen.terminate()
        try:
            return self.popen.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        self.popen.kill()
        return self.popen.wait()


def immunize(*arguments: str, log: Path, environ: Mapping[str, str], prefix: Sequence[str] = ()) -> Process:
    """`immunize gateway ...`, `immunize worker`."""
    return Process([sys.executable, "-m", "service.cli", *arguments], log, environ, prefix)


class RedisServer:
    """A Redis on a port of its own, with its append-only file in `folder`: what it acknowledged survives a kill."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0, prefix: Sequence[str] = ()) -> None:
        self._folder, self._host, self._prefix = folder, host, prefix
        self._port = port or free_port(host)
        self._process: Process | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://{self._host}:{self._port}/0"

    def start(self) -> None:
        options = {
            "bind": self._host,
            "port": str(self._port),
            "protected-mode": "no",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        command = [find_server(), *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._process = Process(command, self._folder / "redis.log", {}, self._prefix)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        if self._process is not None:
            self._process.end()

    def connect(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_connect_timeout=2, socket_timeout=5)

    def ready(self) -> bool:
        """Whether it answers (not while it still reads its file)."""
        with self.connect() as connection:
            try:
                return bool(connection.ping())
            except redis.RedisError:
                return False

    def used_memory(self) -> int:
        with self.connect() as connection:
            return int(connection.info("memory")["used_memory"])

    def wipe(self) -> None:
        with self.connect() as connection:
            connection.flushall()
