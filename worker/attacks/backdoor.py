"""The run-time backdoor: repainting the protected region fails, edits elsewhere go on as if nothing had happened.

"Attack as Defense: Run-time Backdoor Implantation for Image Content Protection", equations 4-10 and Algorithms 1 and 2.
The protected region is the trigger. Three losses on what an editor makes of the perturbed picture: `implant` (the whole
trigger is repainted) and `incomplete` (a part of it with surroundings) pull the edit to a target picture, `hide` (the
surroundings alone) keeps it where the clean picture's edit is. Outside the edited region an editor gives the picture
back, so each loss is the mean square over the edited pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, get_args

import torch
from torch import Tensor

from service.contracts.catalog import Loss, Order
from service.contracts.errors import BadField
from worker.core.objective import Balanced, Objective, Parallel
from worker.core.target import target_picture
from worker.core.trigger import expanded, incomplete, without
from worker.core.view import WorkingSize, largest_size, resize
from worker.models.abilities import EditOptions, Edits, Encodes

LOSSES: tuple[Loss, ...] = get_args(Loss)
WEIGHTS: dict[Loss, float] = {"implant": 1.0, "incomplete": 1.0, "hide": 2.0}
FEW = EditOptions(steps=4, guidance=7.5)
DRAWS = 8  # cuts, each with its own noise and prompt, that the optimisation takes one of at every step
MEASURED = (DRAWS, DRAWS + 1)  # the draws of the reported loss: none that was optimised
FRESH = 1_000_003  # where the seeds of their noise begin: somebody who edits begins at 0
BLANK = 0.5  # what an editor's encoder sees inside the hole


class Victim(Protocol):
    """A model as the backdoor sees it."""

    def paint(self, seen: Tensor, mask: Tensor, number: int) -> Tensor:
        """What it makes of pictures with the region masked, in draw `number`; differentiable in `seen`."""

    def wanted(self, target: Tensor) -> Tensor:
        """What it should make of them, for target pictures."""

    def where(self, mask: Tensor) -> Tensor:
        """The part of what it makes that counts, as weights."""


class Editor:
    """Victim: an inpainter, or a text-guided editor through a few differentiable denoising steps."""

    def __init__(self, model: Edits, prompts: Sequence[str], options: EditOptions) -> None:
        self._model, self._prompts, self._options = model, prompts, options

    def paint(self, seen: Tensor, mask: Tensor, number: int) -> Tensor:
        prompts = [self._prompts[number % len(self._prompts)]] * len(seen)
        seed = FRESH + number  # for all alike, whatever the place in the batch
        generators = [torch.Generator().manual_seed(seed) for _ in seen]
        return self._model.edit(seen, mask, prompts, generators, self._options)

    def wanted(self, target: Tensor) -> Tensor:
        return target

    def where(self, mask: Tensor) -> Tensor:
        return mask


class Encoder:
    """Victim: an editor's encoder alone, which sees the edited region blanked (the paper's encoder backdoor)."""

    def __init__(self, model: Encodes) -> None:
        self._model = model

    def paint(self, seen: Tensor, mask: Tensor, number: int) -> Tensor:  # noqa: ARG002
        return self._model.encode(seen * (1 - mask) + BLANK * mask)

    def wanted(self, target: Tensor) -> Tensor:
        return self._model.encode(target)

    def where(self, mask: Tensor) -> Tensor:
        return mask.new_ones(len(mask), 1, 1, 1)


class Backdoored(Objective):
    """One of the losses on one model. `numbers`: the draws that are taken in turn; with one it is repeatable."""

    def __init__(self, scene: Scene, loss: Loss, numbers: Sequence[int]) -> None:
        self._scene, self._loss, self._numbers, self._turn = scene, loss, tuple(numbers), 0

    def loss(self, x: Tensor) -> Tensor:
        number = self._numbers[self._turn % len(self._numbers)]
        self._turn += 1
        return self._scene.loss(x, self._loss, number)

    @property
    def repeatable(self) -> bool:
        return len(self._numbers) == 1


class Scene:
    """One model, the originals (N,3,H,W), their triggers (N,1,H,W), and what is made of these once and kept."""

    def __init__(self, victim: Victim, view: WorkingSize, target: str | Tensor, x: Tensor, trigger: Tensor) -> None:
        self._victim, self._view, self._x = victim, view, x
        with torch.no_grad():
            self._trigger = view.region(trigger.to(x)).expand(len(x), -1, -1, -1)
            if not bool(self._trigger.any(dim=3).any(dim=2).all()):
                raise BadField(
                    "mask: it is black everywhere, or the region is too small for the model to see; protect a larger "
                    "one",
                    field="mask",
                )
            self._whole = expanded(self._trigger)
            self._wanted = victim.wanted(self._seen(_picture(target, x)))
        self._masks: dict[tuple[Loss, int], Tensor] = {}
        self._clean: dict[int, Tensor] = {}

    def loss(self, x: Tensor, kind: Loss, number: int) -> Tensor:
        """The loss (N,) of pictures x (N,3,h,w), of any size that a view gave them."""
        if x.shape[-2:] != self._x.shape[-2:]:
            x = resize(x, (self._x.shape[-2], self._x.shape[-1]))
        mask = self._mask(kind, number)
        made = self._victim.paint(self._seen(x), mask, number)
        goal = self._hidden(number) if kind == "hide" else self._wanted
        weight = self._victim.where(mask)
        error = (made - goal).float().square().mean(1, keepdim=True) * weight
        area = weight.expand_as(error).sum((1, 2, 3)).clamp(min=1)
        return error.sum((1, 2, 3)) / area

    def _seen(self, x: Tensor) -> Tensor:
        return self._view(x).clamp(0, 1)

    def _mask(self, kind: Loss, number: int) -> Tensor:
        if kind == "implant":
            return self._trigger
        if (kind, number) not in self._masks:
            part = incomplete(self._whole, number, self._trigger)
            self._masks[kind, number] = part if kind == "incomplete" else without(part, self._trigger)
        return self._masks[kind, number]

    def _hidden(self, number: int) -> Tensor:
        """The clean picture's edit, made once a draw."""
        if number not in self._clean:
            with torch.no_grad():
                self._clean[number] = self._victim.paint(self._seen(self._x), self._mask("hide", number), number)
        return self._clean[number]


class BackdoorAttack:
    """The backdoor in one model, or in several.

    `model`: anything that `Edits` or, for the encoder backdoor, `Encodes`; or a sequence of such. `target`: `farthest`,
    `inverted`, `gray`, `noise`, or a picture (1,3,h,w) in [0,1]. `losses`: those that are taken. `weights`: where they
    are to be others than WEIGHTS. `order`: several models in `parallel` (each gradient normalised, Algorithm 1) or one
    after the other, `sequential` (Algorithm 2). A mask, the trigger, must be given, else BadField; the perturbation
    lies inside it and outside.
    """

    covers_region = True  # unlike the other attacks' perturbations

    def __init__(
        self,
        model: Edits | Encodes | Sequence[Edits | Encodes],
        target: str | Tensor = "farthest",
        *,
        prompts: Sequence[str] = ("",),
        options: EditOptions = FEW,
        losses: Sequence[Loss] = LOSSES,
        weights: dict[Loss, float] | None = None,
        order: Order = "parallel",
    ) -> None:
        self._models = tuple(model) if isinstance(model, Sequence) else (model,)
        self._target, self._prompts, self._options = target, tuple(prompts) or ("",), options
        self._losses, self._weights, self._order = tuple(losses), WEIGHTS | (weights or {}), order
        if not self._losses or not set(self._losses) <= set(LOSSES):
            raise ValueError(f"losses: {', '.join(self._losses) or 'none'}; take some of {', '.join(LOSSES)}")

    @property
    def size(self) -> int | None:
        """The largest working size of its models, in pixels; None where one of them sees every pixel."""
        return largest_size(self._models)

    def objective(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        """What is reported: the weighted sum of the losses (equation 10), the mean over the models and a few draws."""
        scenes = self._scenes(x, mask)
        return Parallel([self._total(scene, [number]) for scene in scenes for number in MEASURED])

    def training(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        """What is optimised: another cut of the trigger at every step."""
        totals = [self._total(scene, self._draws()) for scene in self._scenes(x, mask)]
        return totals[0] if len(totals) == 1 else Balanced(totals)

    def stages(self, x: Tensor, mask: Tensor | None = None) -> list[Objective]:
        """What is optimised one after the other."""
        if self._order == "parallel":
            return [self.training(x, mask)]
        return [self._total(scene, self._draws()) for scene in self._scenes(x, mask)]

    def _draws(self) -> list[int]:
        """Every prompt is in one of them, and none is measured."""
        count = len(self._prompts)
        return [number + count if number in MEASURED else number for number in range(max(DRAWS, count))]

    def _total(self, scene: Scene, numbers: Sequence[int]) -> Objective:
        losses = [Backdoored(scene, loss, numbers) for loss in self._losses]
        return Parallel(losses, [self._weights[loss] for loss in self._losses])

    def _scenes(self, x: Tensor, mask: Tensor | None) -> list[Scene]:
        if mask is None:
            raise BadField("mask: the backdoor protects one region and needs it; give a mask, 1 inside", field="mask")
        if bool(mask.flatten(1).all(dim=1).any()):
            raise BadField("mask: it covers the whole picture, and edits elsewhere are to go on", field="mask")
        return [Scene(self._victim(model), _view(model), self._target, x, mask) for model in self._models]

    def _victim(self, model: Edits | Encodes) -> Victim:
        return Editor(model, self._prompts, self._options) if isinstance(model, Edits) else Encoder(model)


def _view(model: Edits | Encodes) -> WorkingSize:
    return WorkingSize(getattr(model, "size", None), getattr(model, "multiple", 8))


def _picture(target: str | Tensor, x: Tensor) -> Tensor:
    """The target for the originals x, of their size."""
    if isinstance(target, str):
        return target_picture(target, x)
    picture = target.to(x.device, x.dtype)
    return picture if picture.shape[-2:] == x.shape[-2:] else resize(picture, (x.shape[-2], x.shape[-1])).clamp(0, 1)
