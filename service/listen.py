"""Listening on a port, with a plain error where that cannot be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from service.contracts.errors import BadField


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there; port 0 is a free one. Raises BadField.

    It listens at once, as two that are merely bound do not notice each other.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named, or asyncio does not see that it is TCP, and Nagle's algorithm holds small answers back for 40 ms
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
        except OSError as error:
            raise BadField(
                f"cannot listen on {host}:{port} ({error.strerror}); give another --host or --port"
            ) from None
        yield listener


def address(listener: socket.socket) -> str:
    """The socket's http address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that name or address."""
    if host.lower() == "localhost":
        return True
    try:
        found = ip_address(host)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
