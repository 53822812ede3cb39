"""How each preset of the catalog runs: step rule, schedule, start, distance, views.

The budget and the number of steps are the catalog's (`service.contracts.catalog`); a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from worker.attacks.diffusion import Kind
from worker.attacks.encoder import Distance
from worker.core.jpeg import Recompressed
from worker.core.objective import View, chain
from worker.core.step import Momentum, Schedule, Sign, StepRule, constant, cosine, linear
from worker.core.view import Bounded, Shrunk, ShrunkAndBack

Views = Callable[[torch.Generator, int | None], Sequence[View]]


@dataclass(frozen=True)
class Recipe:
    rule: StepRule
    schedule: Schedule  # of the budget's size
    random_start: bool
    distance: Distance = "squared"
    views: Views | None = None  # of a generator and the largest working size of the models (None: they see every pixel)
    kind: Kind = "edit"  # these three of the diffusion attack
    guidance: float = 7.5
    eta: float = 1.0


def pipeline(generator: torch.Generator, size: int | None) -> Sequence[View]:
    """What a platform's pipeline does to a picture, in turn: nothing, JPEG then smaller and back, JPEG then half size.

    Four native views to three of each keep nine tenths of what a run on native views alone reaches as delivered. What
    is far above the working size is reduced to twice that first: finer detail is not seen anyway.
    """
    bounded = Bounded(None if size is None else 4 * size**2)
    recompressed = Recompressed(generator)
    back = chain(bounded, recompressed, ShrunkAndBack(generator))
    half = chain(bounded, recompressed, Shrunk())
    return (bounded, back, half, bounded, back, half, bounded, back, half, bounded)


FAST = Recipe(rule=Momentum(decay=0.5, consistency=0.5), schedule=cosine(1.4, 0.1), random_start=True)
ROBUST = Recipe(rule=Momentum(decay=0.8, consistency=0.5), schedule=cosine(1.4, 0.1), random_start=True, views=pipeline)
PAPER = Recipe(rule=Sign(), schedule=constant(2 / 16), random_start=False)
PHOTOGUARD = Recipe(rule=Sign(), schedule=linear(1 / 12, 1 / 1200), random_start=True, distance="norm")
EDIT_FAST = Recipe(rule=Momentum(decay=0.8), schedule=cosine(0.6, 0.02), random_start=True, guidance=1.0, eta=0.0)
EDIT_EARLY = Recipe(rule=Momentum(decay=0.8), schedule=cosine(0.6, 0.02), random_start=True, kind="early")
EDIT_PAPER = Recipe(rule=Sign(), schedule=constant(2 / 16), random_start=False)
EDIT_PHOTOGUARD = Recipe(rule=Sign(), schedule=constant(1 / 16), random_start=False, distance="norm")
BACKDOOR_FAST = Recipe(rule=Momentum(decay=0.6), schedule=cosine(1, 0.05), random_start=True, guidance=1.0, eta=0.0)
BACKDOOR_PAPER = Recipe(rule=Sign(), schedule=constant(1 / 6), random_start=False)
UNIFORM = Recipe(rule=Sign(), schedule=constant(0), random_start=True)

RECIPES: Mapping[tuple[str, str], Recipe] = {
    ("encoder", "fast"): FAST,
    ("encoder", "robust"): ROBUST,
    ("encoder", "paper"): PAPER,
    ("encoder", "photoguard"): PHOTOGUARD,
    ("diffusion", "fast"): EDIT_FAST,
    ("diffusion", "early"): EDIT_EARLY,
    ("diffusion", "paper"): EDIT_PAPER,
    ("diffusion", "photoguard"): EDIT_PHOTOGUARD,
    ("backdoor", "fast"): BACKDOOR_FAST,
    ("backdoor", "paper"): BACKDOOR_PAPER,
    ("noise", "uniform"): UNIFORM,
}
