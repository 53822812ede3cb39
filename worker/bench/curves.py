"""How far each preset comes with how many gradients: loss ratios, and the gradients needed to reach `photoguard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from worker.attacks.encoder import EncoderAttack
from worker.core.budget import Linf
from worker.core.step import linear
from worker.immunization import immunize
from worker.models.abilities import Encodes
from worker.recipes import FAST, PAPER, PHOTOGUARD, Recipe

CHECKPOINTS = (10, 20, 40, 80, 200)
REFERENCE = "photoguard"
# PhotoGuard's public code has two settings. Its demo, 200 steps, begins with a step of epsilon/12, and that is the
# preset; its notebook, 1000 steps, begins with epsilon/3. Larger first steps reach further, so they are shown as well.
CONTENDERS: Mapping[str, Recipe] = {
    "fast": FAST,
    "photoguard": PHOTOGUARD,
    "photoguard, first step eps/6": replace(PHOTOGUARD, schedule=linear(1 / 6, 1 / 600)),
    "photoguard, first step eps/3": replace(PHOTOGUARD, schedule=linear(1 / 3, 1 / 300)),
    "paper": PAPER,
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Curve:
    """Mean over the pictures of loss(delivered) / loss(original), by number of gradients."""

    name: str
    ratios: Mapping[int, float]


@dataclass(frozen=True)
class Curves:
    curves: tuple[Curve, ...]
    needed: Mapping[
        str, int | None
    ]  # gradients of `fast` to reach each other one's end; None: more than the most tried


def measure(encoder: Encodes, x: Tensor, epsilon: float, say: Say) -> Curves:
    """Run every contender anew for every number of gradients (its schedule ends there), at the same budget.

    x: pictures (N,3,H,W) in [0,1], optimised as one batch; epsilon in /255.
    """
    runs = _Runs(encoder, x, epsilon)
    curves = []
    for name, recipe in CONTENDERS.items():
        say(f"curves: {name}")
        curves.append(Curve(name, {steps: runs.ratio(recipe, steps) for steps in CHECKPOINTS}))
    say("curves: how many gradients fast needs to reach the others")
    needed = {c.name: _least(runs, c.ratios[CHECKPOINTS[-1]]) for c in curves if c.name != "fast"}
    return Curves(tuple(curves), needed)


def _least(runs: _Runs, wanted: float) -> int | None:
    """The least number of gradients with which `fast` gets to `wanted`, by bisection."""
    low, high = 1, CHECKPOINTS[-1]
    if runs.ratio(FAST, high) > wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if runs.ratio(FAST, middle) <= wanted else (middle + 1, high)
    return low


class _Runs:
    """Runs remembered, so that nothing is measured twice."""

    def __init__(self, encoder: Encodes, x: Tensor, epsilon: float) -> None:
        # the squared distance for all: the norm's gradient has the same sign, and ratios must be of one thing
        self._attack, self._x, self._budget = EncoderAttack(encoder), x, Linf(epsilon / 255)
        self._known: dict[tuple[int, int], float] = {}

    def ratio(self, recipe: Recipe, steps: int) -> float:
        key = (id(recipe), steps)
        if key not in self._known:
            out = immunize(
                self._x,
                attack=self._attack,
                budget=self._budget,
                steps=steps,
                seed=range(len(self._x)),
                recipe=recipe,
            )
            self._known[key] = float((out.loss_final / out.loss_initial).mean())
        return self._known[key]
