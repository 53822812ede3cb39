"""Sends what is in the outbox, in a thread of the gateway with an event loop of its own.

Several gateways share the work: who takes a delivery from Redis has it for a lease. Who dies on the way, even between
sending and writing it down, leaves it to be sent again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from service.contracts.due import DueTimes
from service.contracts.errors import NotReady
from service.contracts.outbox import Outbox
from service.webhooks.courier import Courier

log = logging.getLogger(__name__)
CONCURRENCY = 64  # deliveries on their way at once, of a gateway
SHARE = 16  # of those, one tenant's at most: whose receiver hangs for 15 seconds keeps nobody else waiting
LEASE_SECONDS = 60.0
POLL_SECONDS = 0.25
AWAY_SECONDS = 2.0  # before Redis is asked again that was away
SWEEP_SECONDS = 60.0
STOP_SECONDS = 5.0  # that deliveries on their way have when the gateway stops
LISTED = 500  # of the outbox at a time


class Dispatcher:
    """`start` it and `stop` it; or, in tests, call `sweep` and `turn` with a clock of your own."""

    def __init__(
        self,
        outbox: Outbox,
        due: DueTimes,
        courier: Courier,
        *,
        clock: Callable[[], float] = time.time,
        concurrency: int = CONCURRENCY,
        share: int = SHARE,
    ) -> None:
        self._outbox, self._due, self._courier, self._clock = outbox, due, courier, clock
        self._concurrency, self._share = concurrency, share
        self._flying: dict[asyncio.Task[None], str] = {}  # and whose it is
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more, and wait some seconds for what is on its way. What is broken off is sent again."""
        self._over.set()
        self._thread.join(STOP_SECONDS + AWAY_SECONDS + 1)

    async def turn(self) -> int:
        """Send what is due, as much as may be on its way at once, and wait for it. Returns how many were taken."""
        count = await self._take()
        while self._flying:
            await asyncio.wait(self._flying)
        return count

    def sweep(self) -> int:
        """Tell Redis of what is in the outbox and what it has forgotten, or was never told. Returns how many."""
        count, stored = 0, self._outbox.all()
        while not self._over.is_set() and (part := list(islice(stored, LISTED))):
            for tenant, job_id in self._due.unknown(part):
                delivery = self._outbox.waiting(tenant, job_id)
                if delivery is not None:
                    self._due.set(tenant, job_id, delivery.next_at.timestamp() if delivery.next_at else self._clock())
                    count += 1
        return count

    def _work(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        sweeping = asyncio.create_task(self._sweep_now_and_then())
        while not self._over.is_set():
            pause = AWAY_SECONDS
            with _logged():
                await self._take()
                pause = POLL_SECONDS
            if self._flying:
                await asyncio.wait(self._flying, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(pause)
        sweeping.cancel()
        if self._flying:
            await asyncio.wait(self._flying, timeout=STOP_SECONDS)  # asyncio.run cancels the rest

    async def _sweep_now_and_then(self) -> None:
        """One gateway of all."""
        while True:
            with _logged():
                if await asyncio.to_thread(self._due.take_turn, SWEEP_SECONDS):
                    found = await asyncio.to_thread(self.sweep)
                    if found:
                        log.warning("%d webhooks were in the outbox but not in Redis", found)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _take(self) -> int:
        free = self._concurrency - len(self._flying)
        if free <= 0:
            return 0
        busy = Counter(self._flying.values())
        taken = await asyncio.to_thread(self._due.take, self._clock(), LEASE_SECONDS, free, self._share, busy)
        for tenant, job_id in taken:
            task = asyncio.create_task(self._deliver(tenant, job_id))
            self._flying[task] = tenant
            task.add_done_callback(self._flying.pop)
        return len(taken)

    async def _deliver(self, tenant: str, job_id: str) -> None:
        with _logged():
            await self._courier.deliver(tenant, job_id)


@contextmanager
def _logged() -> Iterator[None]:
    """What goes wrong is tried again later; nothing ends the dispatcher."""
    try:
        yield
    except NotReady as error:
        log.warning("webhooks wait: %s", error.detail)
    except Exception:
        log.exception("webhooks wait")
