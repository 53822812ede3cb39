"""The encoder attack: move a picture's latents to a target's (PhotoGuard, Salman et al. 2023, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.core.objective import Balanced, Objective
from worker.core.target import target_picture
from worker.core.view import WorkingSize, largest_size, resize
from worker.models.abilities import Encodes

Distance = Literal["squared", "norm"]
BLANK = 0.5  # what inpainting models see inside the edit region: zero in [-1,1]
NEAREST = 1e-12  # mean square below which a root has no slope worth the name: at zero it is infinite


class LatentDistance(Objective):
    """Distance between a picture's latents and a target's, divided by the latent's size.

    `squared` is the mean square, `norm` its root (the unsquared norm of PhotoGuard's public code, up to a constant).
    With a `mask` (N,1,H,W), 1 inside the sensitive region, the model sees the region blanked, as an inpainting model
    does.
    """

    def __init__(
        self,
        model: Encodes,
        target: str | Tensor,
        x: Tensor,
        mask: Tensor | None = None,
        distance: Distance = "squared",
    ) -> None:
        self._model, self._target, self._mask, self._distance = model, target, mask, distance
        self._view = WorkingSize(getattr(model, "size", None), getattr(model, "multiple", 8))
        self._original = x
        self._wanted: dict[tuple[int, int], Tensor] = {}

    def loss(self, x: Tensor) -> Tensor:
        seen = self._view(self._blanked(x))
        mean_square = (self._model.encode(seen) - self._goal(x)).float().square().mean((1, 2, 3))
        return mean_square if self._distance == "squared" else mean_square.clamp(min=NEAREST).sqrt()

    def _blanked(self, x: Tensor) -> Tensor:
        if self._mask is None:
            return x
        mask = self._mask
        if mask.shape[-2:] != x.shape[-2:]:  # a view may have changed the size
            mask = F.interpolate(mask, x.shape[-2:], mode="nearest")
        return x * (1 - mask) + BLANK * mask

    def _goal(self, x: Tensor) -> Tensor:
        """The target's latents for pictures of x's size, computed once per size."""
        size = (x.shape[-2], x.shape[-1])
        if size not in self._wanted:
            with torch.no_grad():
                self._wanted[size] = self._latents(size)
        return self._wanted[size]

    def _latents(self, size: tuple[int, int]) -> Tensor:
        if isinstance(self._target, str) and self._target == "zero":
            return self._original.new_zeros(1)
        if isinstance(self._target, str):
            picture = target_picture(self._target, self._original)
        else:
            picture = self._target.to(self._original.device, self._original.dtype)
        if picture.shape[-2:] != size:
            picture = resize(picture, size).clamp(0, 1)
        return self._model.encode(self._view(picture))


class EncoderAttack:
    """The attack on one encoder, or on several together.

    `model`: anything with `encode(x) -> latents`, or a sequence of such. `target`: `gray`, `zero` (the zero latent),
    `farthest`, `inverted`, or a picture (1,3,h,w) in [0,1].
    """

    def __init__(
        self, model: Encodes | Sequence[Encodes], target: str | Tensor = "gray", distance: Distance = "squared"
    ) -> None:
        self._models = tuple(model) if isinstance(model, Sequence) else (model,)
        self._target, self._distance = target, distance

    @property
    def size(self) -> int | None:
        """The largest working size of its models, in pixels; None where one of them sees every pixel."""
        return largest_size(self._models)

    def objective(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        """What to minimise for the originals x (N,3,H,W), with the sensitive region's mask (N,1,H,W) or None."""
        distances = [LatentDistance(model, self._target, x, mask, self._distance) for model in self._models]
        return distances[0] if len(distances) == 1 else Balanced(distances)
