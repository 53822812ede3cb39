"""Hosts on one network: a namespace each, joined by a bridge in yet another. They reach nothing outside."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

CLONE_NEWNET = 0x40000000  # sched.h
SWITCH = "switch"


class NoRights(Exception):
    """This machine does not let us make hosts; the message says why."""


class Network:
    """`with Network(["redis", "one"]) as network`. Addresses are of 192.0.2.0/24, which is nobody's (RFC 5737)."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts, self._name = list(hosts), f"chaos-{uuid.uuid4().hex[:6]}"

    def __enter__(self) -> Network:
        if shutil.which("ip") is None:
            raise NoRights("there is no `ip` here (iproute2)")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self._remove()
            raise NoRights(f"no network namespaces can be made here: {error.stderr.strip()}") from None
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, host: str) -> str:
        return f"192.0.2.{self._hosts.index(host) + 1}"

    def prefix(self, host: str) -> list[str]:
        """What a command begins with to run on that host."""
        return ["ip", "netns", "exec", self._space(host)]

    def cut(self, host: str) -> None:
        """Pull the host's plug at the switch. It is told nothing: what it sends is lost."""
        self._ip("-n", self._space(SWITCH), "link", "set", self._port(host), "down")

    def mend(self, host: str) -> None:
        self._ip("-n", self._space(SWITCH), "link", "set", self._port(host), "up")

    def thread(self, host: str) -> ThreadPoolExecutor:
        """An executor of one thread whose sockets are that host's."""
        return ThreadPoolExecutor(1, initializer=_enter, initargs=(Path("/run/netns") / self._space(host),))

    def _make(self) -> None:
        switch = self._space(SWITCH)
        self._ip("netns", "add", switch)
        self._ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", switch, "link", "set", "bridge", "up")
        for host in self._hosts:
            space, port = self._space(host), self._port(host)
            self._ip("netns", "add", space)
            self._ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            self._ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._ip("-n", space, "link", "set", "lo", "up")
            self._ip("-n", space, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        for host in [*self._hosts, SWITCH]:
            with suppress(subprocess.CalledProcessError, FileNotFoundError):
                self._ip("netns", "delete", self._space(host))

    def _space(self, host: str) -> str:
        return f"{self._name}-{host}"

    def _port(self, host: str) -> str:
        return f"port{self._hosts.index(host)}"

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


def _enter(space: Path) -> None:
    """Move the calling thread, and no other, into the namespace."""
    handle = os.open(space, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)
