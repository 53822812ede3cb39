"""How far an edit is moved: the edit of the immunized picture against the edit of the clean one, same seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from worker.editing import edit
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions, Edits

Similarities = tuple[float, ...]  # a picture each


@dataclass(frozen=True)
class Displacement:
    """SSIM (1: the edit did not change) in the edited region and over the whole, each picture's mean over all edits."""

    attack: str
    region: Similarities
    whole: Similarities
    psnr_db: Similarities  # over the whole

    @staticmethod
    def summary(values: Similarities) -> tuple[float, float]:
        """Mean over the pictures, and its standard error."""
        spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return statistics.fmean(values), spread


def edits(
    x: Tensor, mask: Tensor, model: Edits, prompts: Sequence[str], seeds: Sequence[int], options: EditOptions
) -> Tensor:
    """(prompts × seeds, N, 3, H, W): what the model makes of each image with each prompt and seed."""
    made = [edit(x, mask, prompt, model, seed=seed, options=options) for prompt in prompts for seed in seeds]
    return torch.stack(made).cpu()


def measure(
    immunized: Mapping[str, Tensor],
    x: Tensor,
    mask: Tensor,
    model: Edits,
    prompts: Sequence[str],
    seeds: Sequence[int],
    say: Callable[[str], None],
    options: EditOptions = DEFAULT_OPTIONS,
) -> tuple[list[Displacement], dict[str, Tensor]]:
    """A row an attack, for its immunized images (N,3,H,W); and all the edits, the clean ones under `clean`."""
    say("edits of the clean pictures")
    made = {"clean": edits(x, mask, model, prompts, seeds, options)}
    inside = (mask[0, 0] > 0).cpu().numpy()
    rows = []
    for attack, pictures in immunized.items():
        say(f"edits after {attack}")
        made[attack] = edits(pictures, mask, model, prompts, seeds, options)
        found = [_compared(made["clean"][:, i], made[attack][:, i], inside) for i in range(len(x))]
        region, whole, psnr = zip(*found, strict=True)
        rows.append(Displacement(attack, region, whole, psnr))
    return rows, made


def _compared(clean: Tensor, moved: Tensor, inside: object) -> tuple[float, float, float]:
    region, whole, psnr = [], [], []
    for first, second in zip(clean, moved, strict=True):
        value, where = structural_similarity(first.numpy(), second.numpy(), channel_axis=0, data_range=1.0, full=True)
        whole.append(float(value))
        region.append(float(where.mean(0)[inside].mean()))
        psnr.append(float(-10 * (first - second).square().mean().clamp(min=1e-10).log10()))
    return statistics.fmean(region), statistics.fmean(whole), statistics.fmean(psnr)
