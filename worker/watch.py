"""A batch under way: what is seen of it from outside, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from service.contracts.schemas import Progress
from worker.jobs import Work


class Over(Exception):
    """Nothing of the batch is wanted any more."""


class TimeUp(Exception):
    """It ran longer than a job may."""


class Drained(Exception):
    """The worker must stop, and has no time left."""


class Watch:
    """Its `on_step` goes into the optimisation. Nothing in it waits for Redis or the store.

    seconds: how long the batch may run. drained(): whether the worker must stop at once. halfway() is called when half
    of the steps are done.
    """

    def __init__(
        self, works: Sequence[Work], *, seconds: float, drained: Callable[[], bool], halfway: Callable[[], None]
    ) -> None:
        self.works = tuple(works)
        self.until = time.monotonic() + seconds
        self._drained, self._halfway = drained, halfway
        self._latest: tuple[int, int, Tensor] | None = None
        self._told = 0
        self._before: torch.cuda.Event | None = None

    def on_step(self, step: int, steps: int, losses: Tensor) -> None:
        if losses.is_cuda:
            self._keep_pace()
        self._latest = (step, steps, losses)
        if all(work.over.is_set() for work in self.works):
            raise Over
        if self._drained():
            raise Drained
        if time.monotonic() > self.until:
            raise TimeUp
        if step * 2 >= steps and self._halfway is not None:
            halfway, self._halfway = self._halfway, lambda: None
            halfway()

    def progress(self) -> dict[str, Progress]:
        """What is new since this was last asked, by job id."""
        latest = self._latest
        if latest is None or latest[0] == self._told:
            return {}
        step, steps, losses = latest
        self._told = step
        return {
            work.record.id: Progress(step=step, steps=steps, loss=loss)
            for work, loss in zip(self.works, losses.tolist(), strict=True)
            if not work.over.is_set()
        }

    def _keep_pace(self) -> None:
        """Let the loop run one step ahead of the GPU and no further: else all steps would be on their way before the
        first is done, and none could be stopped."""
        here = torch.cuda.Event()  # type: ignore[no-untyped-call]
        here.record()
        if self._before is not None:
            self._before.synchronize()
        self._before = here
