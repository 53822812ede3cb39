"""The fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11), and what writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Policy:
    """What may be used at most: so much in any window of so many seconds, or at any time."""

    name: str
    quota: int
    window: int | None = None


@dataclass(frozen=True)
class Standing:
    """What is left of a policy's quota, and the seconds within which no more than that can be used."""

    name: str
    left: int
    seconds: int | None = None


@dataclass(frozen=True)
class Standings:
    """All policies that bind a caller, and how it stands. Of a request that is refused, `now` holds the policy at fault
    alone, so that no other's time goes beyond `Retry-After`."""

    policies: tuple[Policy, ...]
    now: tuple[Standing, ...]

    def headers(self) -> dict[str, str]:
        fields = {
            "RateLimit-Policy": _list((each.name, {"q": each.quota, "w": each.window}) for each in self.policies),
            "RateLimit": _list((each.name, {"r": each.left, "t": each.seconds}) for each in self.now),
        }
        return {name: value for name, value in fields.items() if value}


class RateLimitFields:
    """Middleware: an answer gets the fields if somebody left `Standings` in the request's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            standings = scope.get("state", {}).get("standings")
            if message["type"] == "http.response.start" and standings is not None:
                MutableHeaders(scope=message).update(standings.headers())
            await send(message)

        await self._app(scope, receive, answer if scope["type"] == "http" else send)


def _list(items: Iterable[tuple[str, dict[str, int | None]]]) -> str:
    """A List of Items (RFC 9651, 3.1): strings, with integers as their parameters."""
    return ", ".join(
        f'"{name}"' + "".join(f";{key}={value}" for key, value in parameters.items() if value is not None)
        for name, parameters in items
    )
