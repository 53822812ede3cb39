"""A request and loaded models in, immunized pixels out; and the Python face `immunize`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from service.contracts.catalog import METHODS
from service.contracts.errors import BadField
from service.contracts.pictures import Picture, check_format, check_mask, covers
from service.contracts.plan import Plan
from worker.attacks.backdoor import BackdoorAttack
from worker.attacks.diffusion import DiffusionAttack
from worker.attacks.encoder import EncoderAttack
from worker.attacks.together import Attack, Together, stages
from worker.core.budget import L2, Linf
from worker.core.objective import Expectation
from worker.core.pgd import OnStep, Outcome
from worker.core.stages import descend
from worker.images import to_tensor
from worker.memory import enough_memory
from worker.models.abilities import Denoises, EditOptions, Edits
from worker.recipes import FAST, RECIPES, Recipe

LEVELS = 255.0


def immunize(
    images: Tensor,
    *,
    attack: Attack,
    budget: Linf | L2 | None = None,
    steps: int = 20,
    seed: int | Sequence[int] = 0,
    mask: Tensor | None = None,
    on_step: OnStep | None = None,
    recipe: Recipe = FAST,
) -> Outcome:
    """Immunize a batch of pictures together, each inside its own budget.

    images: (N,3,H,W) floats in [0,1]. attack: what to minimise, an `EncoderAttack` say. budget: `Linf(8/255)` if None.
    seed: one for all, or one per image. mask: (N,1,H,W) or (1,1,H,W), 1 inside the sensitive region: the model sees
    the region blanked, and the perturbation lies outside it. on_step(step, steps, losses (N,)) is called after every
    step; what it raises ends the run. recipe: step rule, schedule, start and views (`worker.recipes`).
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise BadField(f"images: expected floats (N,3,H,W), got {images.dtype} {tuple(images.shape)}", field="images")
    if not len(images) or not bool((images.amin() >= 0) & (images.amax() <= 1)):  # false for NaN too
        raise BadField("images: expected at least one, with every value in [0,1]", field="images")
    budget = Linf(8 / LEVELS) if budget is None else budget
    if mask is not None:
        if mask.shape[-2:] != images.shape[-2:] or mask.shape[1] != 1 or mask.shape[0] not in {1, len(images)}:
            raise BadField(
                f"mask: expected (N,1,H,W) for images {tuple(images.shape)}, got {tuple(mask.shape)}", field="mask"
            )
        mask = mask.to(images.device, images.dtype)
        if not getattr(attack, "covers_region", False):
            free = 1 - mask
            budget = replace(budget, region=free if budget.region is None else free * budget.region.to(free))
    seeds = [seed] * len(images) if isinstance(seed, int) else list(seed)
    generators = [torch.Generator().manual_seed(value) for value in seeds]
    plain = attack.objective(images, mask)
    objectives = stages(attack, images, mask)
    if recipe.views is not None:
        drawn = torch.Generator().manual_seed(0)  # not a picture's: no result may depend on who else is in the batch
        objectives = [Expectation(each, recipe.views(drawn, getattr(attack, "size", None))) for each in objectives]
    return descend(
        objectives,
        images,
        budget,
        rule=recipe.rule,
        schedule=recipe.schedule,
        steps=steps,
        start=budget.start(images, generators) if recipe.random_start else None,
        measure=plain,
        on_step=on_step,
    )


@dataclass(frozen=True)
class Item:
    """One picture of a batch, and what is planned for it. Those of a batch agree in everything that
    `service.contracts.batching` puts into its key."""

    picture: Picture
    plan: Plan
    mask: Image.Image | None = None
    target: Image.Image | None = None


@dataclass(frozen=True)
class Immunized:
    """What the optimisation made of an item."""

    item: Item
    image: Tensor  # (1,3,H,W), on the 8-bit grid
    loss_initial: float
    loss_final: float
    gradient_evaluations: int
    seconds: float  # of the whole batch
    batch: int  # pictures in it


def check(picture: Picture, mask: Image.Image | None, plan: Plan) -> None:
    """Refuse what the plan cannot do with this picture. Raises BadField."""
    check_format(plan.format, picture)
    check_mask(mask, needed=METHODS[plan.method].needs_mask)


def optimize(
    items: Sequence[Item], models: Sequence[Any], device: torch.device, on_step: OnStep | None = None
) -> list[Immunized]:
    """Immunize pictures of one size together, each with its own seed, budget and mask. Raises OutOfMemory."""
    plan = items[0].plan
    x = torch.cat([to_tensor(item.picture.pixels) for item in items]).to(device)
    sizes = torch.tensor([item.plan.epsilon / LEVELS for item in items])
    began = time.perf_counter()
    with enough_memory():
        outcome = immunize(
            x,
            attack=_attack(items[0], models),
            budget=Linf(sizes) if plan.norm == "linf" else L2(sizes),
            steps=plan.steps,
            seed=[item.plan.seed for item in items],
            mask=_regions(items, device),
            on_step=on_step,
            recipe=RECIPES[plan.method, plan.preset],
        )
        first, last = outcome.loss_initial.tolist(), outcome.loss_final.tolist()  # waits for the device
        gradients, count = outcome.gradient_evaluations.tolist(), len(items)
    seconds = time.perf_counter() - began
    return [
        Immunized(item, outcome.images[place : place + 1], first[place], last[place], gradients[place], seconds, count)
        for place, item in enumerate(items)
    ]


def optimize_sizes(
    works: Sequence[Sequence[Item]], models: Sequence[Any], device: torch.device, on_step: OnStep
) -> list[list[Immunized]]:
    """Several sizes of several pictures: all pictures of one size together, and one size after the other.

    works: of each picture its items, of sizes in which all agree. on_step counts the steps of all sizes.
    """
    parts = list(zip(*works, strict=True))

    def part(number: int) -> OnStep:
        return lambda step, steps, losses: on_step(number * steps + step, len(parts) * steps, losses)

    made = [optimize(items, models, device, part(number)) for number, items in enumerate(parts)]
    return [list(each) for each in zip(*made, strict=True)]


def loss(item: Item, picture: Image.Image, models: Sequence[Any], device: torch.device) -> float:
    """The objective of the item's attack on that picture of its size. Raises OutOfMemory."""
    with torch.no_grad(), enough_memory():
        objective = _attack(item, models).objective(to_tensor(item.picture.pixels).to(device), _regions([item], device))
        return float(objective.loss(to_tensor(picture).to(device)).item())


def _attack(item: Item, models: Sequence[Any]) -> Attack:
    goal = item.plan.target or "gray" if item.target is None else to_tensor(item.target)
    return make_attack(item.plan, models, RECIPES[item.plan.method, item.plan.preset], goal)


def _regions(items: Sequence[Item], device: torch.device) -> Tensor | None:
    """The masks (N,1,H,W), black for a picture without one; None where all are black."""
    masks = [item.mask if item.mask is not None and covers(item.mask)[0] else None for item in items]
    if all(mask is None for mask in masks):
        return None
    size = items[0].picture.size
    return torch.cat([to_tensor(mask or Image.new("L", size)) for mask in masks]).to(device)


def make_attack(plan: Plan, models: Sequence[Any], recipe: Recipe, target: str | Tensor) -> Attack:
    """The attack that a plan asks for. Models that only encode join an attack on editors with the encoder attack.

    Raises BadField for a preset of predictions and an editor that tells none.
    """
    if plan.denoising_steps is None:
        return EncoderAttack(models, target=target, distance=recipe.distance)
    options = EditOptions(
        steps=plan.denoising_steps, guidance=recipe.guidance, eta=recipe.eta, gradient_steps=plan.gradient_steps
    )
    if plan.method == "backdoor":
        return BackdoorAttack(
            models,
            target,
            prompts=plan.prompts,
            options=options,
            losses=plan.losses,
            order=plan.order or "parallel",
        )
    editors = [model for model in models if isinstance(model, Edits)]
    if recipe.kind == "early" and not all(isinstance(model, Denoises) for model in editors):
        raise BadField(f"preset: {plan.preset} needs models that denoise; take another preset", field="preset")
    diffusion = DiffusionAttack(
        editors,
        target,
        prompts=plan.prompts,
        options=options,
        kind=recipe.kind,
        repeats=plan.repeats or 1,
        distance=recipe.distance,
        masks=plan.masks or "given",
    )
    encoders = [model for model in models if not isinstance(model, Edits)]
    return diffusion if not encoders else Together([diffusion, EncoderAttack(encoders, target=target)])


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
