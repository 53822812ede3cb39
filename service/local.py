"""Whether a request comes from this very machine, so that it may be served without a key."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from service.listen import is_loopback

FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def is_local(request: HTTPConnection) -> bool:
    """From a loopback address, to a loopback name, through no proxy, from no foreign web page.

    A proxy on this machine speaks for the world. A page that a browser here has opened may send forms to loopback
    addresses (its Origin tells), and may call them by a name of its own (DNS rebinding: the Host tells).
    """
    headers = request.headers
    if request.client is None or not is_loopback(request.client.host):
        return False
    if any(name in headers for name in FORWARDED):
        return False
    origin = headers.get("origin")
    return _is_loopback(f"//{headers.get('host', '')}") and (origin is None or _is_loopback(origin))


def _is_loopback(address: str) -> bool:
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False
