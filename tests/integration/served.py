"""`immunize serve` as a process of its own, and every process that it begot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from service.client import Client
from tests.helpers import wait_for

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class Served:
    """A running service. `with Served(folder, environment) as served: served.client.submit(...)`."""

    def __init__(self, data: Path, environ: dict[str, str]) -> None:
        self.data = data
        self._mark = f"TESTED_AS={uuid.uuid4().hex}"
        self._log = data.with_name(f"{data.name}.{self._mark[-6:]}.log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command("--port", "0", "--data", str(data)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | environ | dict([self._mark.split("=")]),
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # comes when it listens, or ends when it dies
        assert "listening on " in line, self._log.read_text()
        self.address = line.split("listening on ")[1].split()[0]
        self.client = Client(self.address)
        wait_for(self.client.ready, "the service is ready", seconds=START_SECONDS)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    @property
    def told(self) -> str:
        """What it and its children wrote to stderr."""
        return self._log.read_text()

    def stop(self) -> int:
        """As an operator would; the exit status."""
        self.process.terminate()
        return self._gone()

    def kill(self) -> None:
        """As the kernel would; its children live on."""
        self.process.kill()
        self._gone()

    def processes(self, what: str = "") -> list[int]:
        """The ids of the service and all that it began, of those whose command line holds `what`."""
        found = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        return [pid for pid in found if self._is_ours(pid, what)]

    def _gone(self) -> int:
        self.client.__exit__(None, None, None)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=STOP_SECONDS)

    def _is_ours(self, pid: int, what: str) -> bool:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False  # it has just ended
        ours = (
            self._mark.encode() in environ or bytes(self.data / "redis") in arguments
        )  # Redis writes over its environ
        return ours and what.encode() in arguments


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", "serve", *arguments]
