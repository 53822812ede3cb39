"""One POST to an address that a stranger chose: resolved once, checked, pinned, bounded, not redirected.

The host's name is resolved here, every IP address that it stands for is checked, and the connection goes to one of
those (with the name in Host and TLS), so that the name has no second chance to stand for something else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from ipaddress import ip_address

import httpx2

from service.webhooks.reach import IP, Reach, plain

log = logging.getLogger(__name__)
CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 15.0
MAX_ANSWER = 64 * 1024  # of the answer's body; it is read for the receiver's comfort, and dropped
ANSWER_SECONDS = 1.0
LOOKUPS = 128  # at once; more than are sent at once, as one that was given up lasts on in its thread
MAX_TRIED = 4  # of a host's addresses
NOWHERE = "the host's name does not stand for a public address"  # one sentence: nobody learns which names exist inside

Resolve = Callable[[str, int], Awaitable[list[IP]]]


@dataclass(frozen=True)
class Answer:
    """What came of it: a status, or the reason why there is none, in words for the tenant."""

    status: int | None = None
    error: str | None = None
    refused: bool = False  # nothing was sent: the address is not one that may be reached
    retry_after: float | None = None  # seconds


class Poster:
    """Sends. `resolve` is the system's, in threads of its own, as it cannot be told to hurry."""

    def __init__(
        self,
        reach: Reach,
        *,
        resolve: Resolve | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        total: float = TOTAL_SECONDS,
        lookups: int = LOOKUPS,
    ) -> None:
        self._reach, self._transport, self._total = reach, transport, total
        self._threads = ThreadPoolExecutor(lookups, thread_name_prefix="resolve")
        self._resolve = resolve or self._ask_system
        self._tls = httpx2.create_ssl_context()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Never raises for what the other side does."""
        try:
            async with asyncio.timeout(self._total):
                return await self._post(httpx2.URL(url), headers, body)
        except (TimeoutError, httpx2.TimeoutException):
            return Answer(error=f"there was no answer within {self._total:g} seconds")
        except httpx2.ConnectError as error:
            return Answer(error=_why_not_connected(error))
        except httpx2.TransportError:
            return Answer(error="the connection broke before there was an answer")
        except Exception:
            log.exception("a webhook could not be sent")
            return Answer(error="it could not be sent")

    async def _post(self, url: httpx2.URL, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            found = await self._resolve(
                url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
            )
        except (OSError, UnicodeError):
            return Answer(error=NOWHERE)
        if not found or not all(self._reach.allows(address, url.scheme) for address in found):
            return Answer(refused=True, error=NOWHERE)
        tried = _families_in_turn([plain(address) for address in found])[:MAX_TRIED]
        for address in tried[:-1]:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._post_to(address, url, headers, body)
        return await self._post_to(tried[-1], url, headers, body)

    async def _post_to(self, address: IP, url: httpx2.URL, headers: Mapping[str, str], body: bytes) -> Answer:
        """A client of its own for each: no connection, cookie or session is shared between tenants."""
        async with (
            httpx2.AsyncClient(
                transport=self._transport,
                verify=self._tls,
                trust_env=False,  # no proxies, no .netrc
                follow_redirects=False,
                timeout=httpx2.Timeout(self._total, connect=CONNECT_SECONDS),
            ) as client,
            client.stream(
                "POST",
                url.copy_with(host=str(address)),
                headers={
                    **headers,
                    "host": url.netloc.decode("ascii"),
                    "content-type": "application/json",
                    "user-agent": f"immunize/{version('immunize')}",
                },
                content=body,
                extensions={"sni_hostname": url.raw_host.decode("ascii").removesuffix(".")},
            ) as answer,
        ):
            await _drop_body(answer)
            return Answer(status=answer.status_code, retry_after=_retry_after(answer.headers.get("retry-after", "")))

    async def _ask_system(self, host: str, port: int) -> list[IP]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(ip_address(each[4][0]) for each in found))


def _families_in_turn(addresses: list[IP]) -> list[IP]:
    """As the resolver sorted them, but an unreachable IPv6 does not use up all attempts."""
    place = {
        address: sum(1 for other in addresses[:index] if other.version == address.version)
        for index, address in enumerate(addresses)
    }
    return sorted(place, key=lambda address: place[address])


async def _drop_body(answer: httpx2.Response) -> None:
    read = 0
    with suppress(httpx2.TransportError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            async for chunk in answer.aiter_raw():
                read += len(chunk)
                if read > MAX_ANSWER:
                    return


def _retry_after(text: str) -> float | None:
    """Seconds, of a number or a date (RFC 9110)."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    with suppress(ValueError, TypeError, OverflowError):
        date = parsedate_to_datetime(text)
        return max(0.0, (date - date.now(date.tzinfo)).total_seconds())
    return None


def _why_not_connected(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not valid ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS as we do"
        cause = cause.__cause__ or cause.__context__
    return "no connection could be made"
