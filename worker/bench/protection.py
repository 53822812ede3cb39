"""How well one region is protected: edits of the trigger, of parts of it and of its surroundings, against the original.

The regions and the comparison are those of the run-time backdoor's Table 1: what an editor paints is compared with the
ORIGINAL picture, in the edited region, for the benign picture and for the immunized one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.contracts.catalog import METHODS, Loss
from worker.attacks.backdoor import LOSSES, MEASURED, BackdoorAttack
from worker.bench.perceptual import Perceptual
from worker.bench.regions import psnr, ssim
from worker.core.budget import Linf
from worker.core.pgd import OnStep, Outcome
from worker.core.trigger import expanded, incomplete, without
from worker.editing import edit
from worker.immunization import immunize
from worker.models.abilities import EditOptions
from worker.recipes import RECIPES

RUNS = (0, 1, 2, 3)  # seeds of a random model's edits; one that is not random needs the first alone
REGIONS = ("trigger", "incomplete", "without")


@dataclass(frozen=True)
class Score:
    """Edits against originals in the edited region, a value a picture, each the mean over masks and runs. The
    perceptual ones are of the whole picture, None where their weights are not present."""

    ssim: tuple[float, ...]
    psnr_db: tuple[float, ...]
    lpips: float | None
    clip_fid: float | None

    def mean(self) -> tuple[float, float]:
        return statistics.fmean(self.ssim), statistics.fmean(self.psnr_db)


def centred(size: int, side: int) -> Tensor:
    """The trigger (1,1,size,size): a square of `side` pixels in the middle."""
    first = (size - side) // 2
    mask = torch.zeros(1, 1, size, size)
    mask[..., first : first + side, first : first + side] = 1
    return mask


def regions(trigger: Tensor) -> Mapping[str, list[Tensor]]:
    """The masks of REGIONS. Cuts are those of the reported loss, which no optimisation has seen."""
    whole = expanded(trigger)
    parts = [incomplete(whole, number, trigger) for number in MEASURED]
    return {"trigger": [trigger], "incomplete": parts, "without": [without(part, trigger) for part in parts]}


def score(
    pictures: Tensor, x: Tensor, masks: Sequence[Tensor], model: Any, perceptual: Perceptual
) -> tuple[Score, Tensor]:
    """Edits of `pictures` (N,3,H,W), benign or immunized, against the originals x; and the first edit, the original
    around it, as it would be published."""
    runs = RUNS if getattr(model, "random", True) else RUNS[:1]
    similar, near, lpips, fid, made = [], [], [], [], []
    for mask in masks:
        for seed in runs:
            painted = edit(pictures, mask, "", model, seed=seed)
            painted = pictures * (1 - mask) + painted * mask
            similar.append(ssim(painted, x, mask))
            near.append(psnr(painted, x, mask))
            lpips.append(perceptual.lpips(painted, x))
            fid.append(perceptual.clip_fid(painted, x))
            made.append(painted)
    found = Score(
        ssim=tuple(map(statistics.fmean, zip(*similar, strict=True))),
        psnr_db=tuple(map(statistics.fmean, zip(*near, strict=True))),
        lpips=_mean([statistics.fmean(values) for values in lpips if values is not None]),
        clip_fid=_mean([value for value in fid if value is not None]),
    )
    return found, made[0]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def editing(preset: str) -> EditOptions:
    """The edits that a preset of the backdoor attacks."""
    of, recipe = METHODS["backdoor"].preset(preset), RECIPES["backdoor", preset]
    return EditOptions(
        steps=of.denoising_steps, guidance=recipe.guidance, eta=recipe.eta, gradient_steps=of.gradient_steps
    )


def protect(
    x: Tensor,
    trigger: Tensor,
    models: Any,
    *,
    preset: str = "fast",
    epsilon: float = 6,
    steps: int | None = None,
    losses: Sequence[Loss] = LOSSES,
    target: str = "farthest",
    on_step: OnStep | None = None,
) -> Outcome:
    """Pictures x (N,3,H,W) immunized by the backdoor in `models`. epsilon in /255."""
    attack = BackdoorAttack(models, target, options=editing(preset), losses=losses)
    return immunize(
        x,
        attack=attack,
        budget=Linf(epsilon / 255),
        steps=METHODS["backdoor"].preset(preset).steps if steps is None else steps,
        mask=trigger,
        recipe=RECIPES["backdoor", preset],
        on_step=on_step,
    )
