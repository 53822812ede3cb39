"""How each preset of the catalog runs: step rule, schedule, start, distance, views.

The budget and the number of steps are the catalog's (`service.contracts.catalog`); a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from worker.attacks.encoder import Distance
from worker.core.objective import View
from worker.core.step import Momentum, Schedule, Sign, StepRule, constant, cosine, linear

Views = Callable[[torch.Generator, tuple[int, int]], Sequence[View]]


@dataclass(frozen=True)
class Recipe:
    rule: StepRule
    schedule: Schedule  # of the budget's size
    random_start: bool
    distance: Distance = "squared"
    views: Views | None = None


FAST = Recipe(rule=Momentum(decay=0.5, consistency=0.5), schedule=cosine(1.4, 0.1), random_start=True)
PAPER = Recipe(rule=Sign(), schedule=constant(2 / 16), random_start=False)
PHOTOGUARD = Recipe(rule=Sign(), schedule=linear(1 / 12, 1 / 1200), random_start=True, distance="norm")
UNIFORM = Recipe(rule=Sign(), schedule=constant(0), random_start=True)

RECIPES: Mapping[tuple[str, str], Recipe] = {
    ("encoder", "fast"): FAST,
    ("encoder", "paper"): PAPER,
    ("encoder", "photoguard"): PHOTOGUARD,
    ("noise", "uniform"): UNIFORM,
}
