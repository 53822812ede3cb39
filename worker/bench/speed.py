"""What one evaluation costs against a bare forward and backward pass, pictures a second, peak memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.attacks.encoder import EncoderAttack
from worker.bench.clock import now, peak
from worker.core.budget import Linf
from worker.immunization import immunize
from worker.models.abilities import Encodes
from worker.recipes import FAST, PHOTOGUARD, Recipe

ROUNDS = 5
STEPS = 20  # of a timed run; `photoguard` takes ten times as many of its own for a picture
REPEATS = 10


@dataclass(frozen=True)
class Speed:
    batch: int
    bare_seconds: float  # one forward and backward pass of the encoder alone, for the whole batch
    fast_seconds: float  # one evaluation and step of `fast`
    photoguard_seconds: float
    overhead: float  # `fast` against bare: median over the rounds of the ratio within a round
    fast_images_per_second: float  # 20 gradients a picture, and all that surrounds them
    photoguard_images_per_second: float  # 200 gradients a picture
    peak_memory_bytes: int  # of the device on a GPU; of the process so far on a CPU


def measure(encoder: Encodes, x: Tensor, epsilon: float, batches: Sequence[int]) -> list[Speed]:
    """Time batches of the pictures x (N,3,H,W) in [0,1], repeated as often as a batch needs. epsilon in /255."""
    return [_one(encoder, torch.cat([x] * (-(-count // len(x))))[:count], Linf(epsilon / 255)) for count in batches]


def _one(encoder: Encodes, x: Tensor, budget: Linf) -> Speed:
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
    _bare(encoder, x, 2)  # warm-up: kernels chosen, code compiled, memory claimed
    _run(encoder, x, budget, FAST, 2)
    rounds = []
    for _ in range(ROUNDS):  # the three side by side, so that what slows the machine slows them all
        bare = _bare(encoder, x, STEPS)
        fast, whole = _run(encoder, x, budget, FAST, STEPS)
        photoguard, theirs = _run(encoder, x, budget, PHOTOGUARD, STEPS)
        rounds.append((bare, fast, photoguard, fast / bare, whole, theirs + (REPEATS - 1) * STEPS * photoguard))
    bare, fast, photoguard, overhead, whole, theirs = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    return Speed(
        batch=len(x),
        bare_seconds=bare,
        fast_seconds=fast,
        photoguard_seconds=photoguard,
        overhead=overhead,
        fast_images_per_second=len(x) / whole,
        photoguard_images_per_second=len(x) / theirs,
        peak_memory_bytes=peak(x),
    )


def _bare(encoder: Encodes, x: Tensor, count: int) -> float:
    """Seconds of one forward and backward pass, with the mean square of the latents as the loss."""
    began = now(x)
    for _ in range(count):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(encoder.encode(leaf).float().square().mean(), leaf)
    return (now(x) - began) / count


def _run(encoder: Encodes, x: Tensor, budget: Linf, recipe: Recipe, steps: int) -> tuple[float, float]:
    """Seconds of one evaluation inside the loop, and of the whole run."""
    first = last = 0.0

    def on_step(step: int, steps: int, losses: Tensor) -> None:  # noqa: ARG001
        nonlocal first, last
        if step == 1:
            first = now(x)
        elif step == steps:
            last = now(x)

    began = now(x)
    immunize(x, attack=EncoderAttack(encoder), budget=budget, steps=steps, recipe=recipe, on_step=on_step)
    return (last - first) / (steps - 1), now(x) - began
