"""The diffusion attack: make what an editor generates from the picture go wrong.

Two objectives. `edit`: the distance of the finished edit from a target picture, with gradients through the denoising
steps (PhotoGuard, Salman et al. 2023, Algorithm 2). `early`: the size of the network's prediction at the first step
only, to be made large (DiffusionGuard, Choi et al. 2025), which needs no other step and no decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.core.objective import Balanced, Objective, Parallel, Repeated
from worker.core.region import drawn, sides, unforeseen
from worker.core.target import target_picture
from worker.core.view import WorkingSize, largest_size, resize
from worker.models.abilities import Denoises, EditOptions, Edits

Kind = Literal["edit", "early"]
Distance = Literal["squared", "norm"]
Masks = Literal["given", "random"]
FEW = EditOptions(steps=4, guidance=7.5)
MEASURED = 2  # draws of noise that the reported loss is the mean of
FRESH = 1_000_003  # where the draws of the optimisation begin, so that none is one of the measured
NEAREST = 1e-12  # mean square below which a root has no slope worth the name: at zero it is infinite


@dataclass(frozen=True)
class Given:
    """The given region (N,1,h,w) as a model sees it, and its `sides`."""

    mask: Tensor
    sides: list[float]


@dataclass(frozen=True)
class Draw:
    """What chance decides of one edit: the noise's seed, the prompt and the region."""

    number: int
    masks: Masks

    def prompt(self, prompts: Sequence[str]) -> str:
        return prompts[self.number % len(prompts)]

    def generators(self, count: int) -> list[torch.Generator]:
        """One for each image, all alike: an image's result must not depend on its place in the batch."""
        return [torch.Generator().manual_seed(self.number) for _ in range(count)]

    def mask(self, given: Given | None, shape: tuple[int, int]) -> Tensor:
        generator = torch.Generator().manual_seed(self.number)
        if given is None:
            return drawn(*shape, generator)
        return given.mask if self.masks == "given" else unforeseen(given.mask, given.sides, generator)


class Edited(Objective):
    """An objective on what an editor makes of the picture: with `draw` always the same edit, else another each time."""

    def __init__(
        self, attack: DiffusionAttack, model: Edits | Denoises, x: Tensor, mask: Tensor | None, draw: Draw | None
    ):
        self._attack, self._model, self._fixed, self._count = attack, model, draw, 0
        self._view = WorkingSize(getattr(model, "size", None), getattr(model, "multiple", 8))
        self._original, self._mask = x, mask
        self._goals: dict[tuple[int, int], Tensor] = {}
        self._regions: dict[tuple[int, int], Given] = {}

    def loss(self, x: Tensor) -> Tensor:
        attack, draw = self._attack, self._draw()
        seen = self._view(x).clamp(0, 1)  # a bicubic filter overshoots, and editors take that for another range
        mask = draw.mask(self._given(x), (seen.shape[-2], seen.shape[-1])).to(seen)
        prompts, generators = [draw.prompt(attack.prompts)] * len(x), draw.generators(len(x))
        if attack.kind == "early":
            assert isinstance(self._model, Denoises)
            predicted = self._model.predict_noise(seen, mask, prompts, generators, attack.options)
            return -predicted.float().square().mean((1, 2, 3))
        assert isinstance(self._model, Edits)
        made = self._model.edit(seen, mask, prompts, generators, attack.options)
        mean_square = (made - self._goal(x)).float().square().mean((1, 2, 3))
        return mean_square if attack.distance == "squared" else mean_square.clamp(min=NEAREST).sqrt()

    @property
    def repeatable(self) -> bool:
        return self._fixed is not None

    def _draw(self) -> Draw:
        if self._fixed is not None:
            return self._fixed
        self._count += 1
        return Draw(FRESH + self._count, self._attack.masks)

    def _given(self, x: Tensor) -> Given | None:
        """The given region as the model sees it in pictures of x's size, made once a size."""
        mask, shape = self._mask, (x.shape[-2], x.shape[-1])
        if mask is None:
            return None
        if shape not in self._regions:
            if mask.shape[-2:] != shape:  # a view may have changed the size
                mask = F.interpolate(mask, shape, mode="nearest")
            region = self._view.region(mask)
            self._regions[shape] = Given(region, sides(region))
        return self._regions[shape]

    def _goal(self, x: Tensor) -> Tensor:
        """The target as the model sees it in pictures of x's size, made once a size."""
        shape = (x.shape[-2], x.shape[-1])
        if shape not in self._goals:
            target = self._attack.target
            if isinstance(target, str):
                picture = target_picture(target, self._original)
            else:
                picture = target.to(self._original.device, self._original.dtype)
            if picture.shape[-2:] != shape:
                picture = resize(picture, shape)
            with torch.no_grad():
                self._goals[shape] = self._view(picture).clamp(0, 1)
        return self._goals[shape]


class DiffusionAttack:
    """The attack on one editor, or on several together.

    `model`: anything that `Edits` (or, for `early`, `Denoises`), or a sequence of such. `target`: `gray`, `farthest`,
    `inverted`, `noise`, or a picture (1,3,h,w) in [0,1]; `early` has none. `prompts`: what the misuser may ask for; one
    is taken an evaluation. `repeats`: gradients, each of another noise, that are averaged in a step. `masks`: `given`,
    or `random`: grown or shrunken anew each time. Where no mask is given at all, regions are drawn anew each time.
    """

    def __init__(
        self,
        model: Edits | Denoises | Sequence[Edits | Denoises],
        target: str | Tensor = "gray",
        *,
        prompts: Sequence[str] = ("",),
        options: EditOptions = FEW,
        kind: Kind = "edit",
        repeats: int = 1,
        distance: Distance = "squared",
        masks: Masks = "given",
    ) -> None:
        self._models = tuple(model) if isinstance(model, Sequence) else (model,)
        self.target, self.prompts, self.options, self.kind = target, tuple(prompts) or ("",), options, kind
        self.distance, self.masks, self._repeats = distance, masks, repeats

    @property
    def size(self) -> int | None:
        """The largest working size of its models, in pixels; None where one of them sees every pixel."""
        return largest_size(self._models)

    def objective(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        """What is reported: the mean over a few edits that are always the same."""
        draws = [Draw(number, "given") for number in range(MEASURED)]
        return Parallel([Edited(self, model, x, mask, draw) for model in self._models for draw in draws])

    def training(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        """What is optimised: new noise, prompt and region at every evaluation."""
        objectives = [Repeated(Edited(self, model, x, mask, None), self._repeats) for model in self._models]
        return objectives[0] if len(objectives) == 1 else Balanced(objectives)
