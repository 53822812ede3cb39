"""A call to the gateway, made again for as long as it asks for patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx2

from tests.chaos.ledger import Ledger

SLOWEST = 20.0  # seconds within which a gateway says that it cannot serve just now


def patiently(
    call: Callable[[], httpx2.Response],
    name: str,
    ledger: Ledger,
    stopped: threading.Event,
    taken: Callable[[httpx2.Response], None],
) -> int:
    """Call until the answer is neither 429 nor 503, waiting as it says; `taken` gets a 202. Returns the status, or 0.

    Anything else but the 202, and a refusal that does not say when to come back, is a complaint.
    """
    while not stopped.is_set():
        began = time.monotonic()
        try:
            answer = call()
        except httpx2.TransportError as error:
            ledger.lost(name, type(error).__name__)
            stopped.wait(1)
            continue
        ledger.answered(name, answer.status_code)
        if answer.status_code == 202:
            taken(answer)
            return 202
        if answer.status_code not in {429, 503}:
            if not (name == "cancel" and answer.status_code == 409):
                ledger.complain(f"{name} was answered {answer.status_code}: {answer.text[:200]}")
            return int(answer.status_code)
        after = answer.headers.get("retry-after", "")
        if not after.isdigit():
            ledger.complain(f"{name} was answered {answer.status_code} without a Retry-After: {answer.text[:200]}")
        if time.monotonic() - began > SLOWEST:
            ledger.complain(f"{name} was answered {answer.status_code} after {time.monotonic() - began:.0f} s only")
        stopped.wait(min(float(after) if after.isdigit() else 1.0, 5.0))
    return 0
