"""Jobs over HTTP: many small pictures, each with a seed, a budget and a fate, from several threads at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2
from PIL import Image

from tests.chaos.answers import patiently
from tests.chaos.ledger import Fate, Ledger, Promise
from tests.helpers import png

SIZES = ((64, 48), (96, 80))
EPSILONS = (2.5, 4.0, 8.0, 12.0)
STEPS = (6, 12)
THREADS = 4


@dataclass(frozen=True)
class Mix:
    """How many jobs in all, and how many of them have a model that breaks or that kills its worker."""

    jobs: int
    broken: int = 0
    deadly: int = 0


@dataclass(frozen=True)
class Ask:
    """One `POST /immunize`."""

    fate: Fate
    fields: dict[str, str]
    files: dict[str, bytes] = field(repr=False)

    @property
    def epsilon(self) -> float:
        return float(self.fields["epsilon"])


def make_asks(seed: int, mix: Mix) -> list[Ask]:
    """The same for the same seed. Those with an ill fate stand anywhere among the others."""
    drawn = random.Random(f"load {seed}")
    counts: dict[Fate, int] = {"broken": mix.broken, "deadly": mix.deadly}
    counts["good"] = mix.jobs - sum(counts.values())
    fates = [fate for fate, count in counts.items() for _ in range(count)]
    drawn.shuffle(fates)
    return [_ask(drawn, fate) for fate in fates]


def _ask(drawn: random.Random, fate: Fate) -> Ask:
    size = drawn.choice(SIZES)
    small = Image.frombytes("RGB", (8, 8), drawn.randbytes(192))
    files = {"image": png(small.resize(size, Image.Resampling.BICUBIC))}
    if drawn.random() < 0.25:
        mask = Image.new("L", size)
        mask.paste(255, (8, 8, 8 + drawn.randrange(8, 40), 8 + drawn.randrange(8, 32)))
        files["mask"] = png(mask)
    fields = {
        "models": "paced" if fate == "good" else fate,
        "epsilon": str(drawn.choice(EPSILONS)),
        "steps": str(drawn.choice(STEPS)),
        "seed": str(drawn.randrange(2**32)),
        "priority": "bulk" if drawn.random() < 0.3 else "interactive",
        "format": "webp" if drawn.random() < 0.2 else "png",
    }
    return Ask(fate, fields, files)


class Load:
    """Sends the asks in order, no more than `room()` at a time, until all have an answer or `stop` is called."""

    def __init__(self, address: str, asks: list[Ask], ledger: Ledger, room: Callable[[], int]) -> None:
        self._address, self._ledger, self._room = address, ledger, room
        self._left, self._sending, self._lock = list(reversed(asks)), 0, threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send_all, name=f"load-{n}") for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _send_all(self) -> None:
        with httpx2.Client(base_url=self._address, timeout=30) as http:
            while not self._stopped.is_set():
                ask = self._next()
                if ask is None:
                    with self._lock:
                        if not self._left:
                            return
                    self._stopped.wait(0.05)
                    continue
                try:
                    self._send(http, ask)
                finally:
                    with self._lock:
                        self._sending -= 1

    def _next(self) -> Ask | None:
        with self._lock:
            if not self._left or self._room() <= self._sending:
                return None
            self._sending += 1
            return self._left.pop()

    def _send(self, http: httpx2.Client, ask: Ask) -> None:
        def taken(answer: httpx2.Response) -> None:
            self._ledger.promised(Promise(answer.json()["id"], ask.epsilon, ask.fate))

        files = {name: (name, data) for name, data in ask.files.items()}
        patiently(
            lambda: http.post("/immunize", data=ask.fields, files=files), "submit", self._ledger, self._stopped, taken
        )
