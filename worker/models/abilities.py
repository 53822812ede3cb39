"""What an attack may ask of a model. Structural: any object with the method will do.

At every boundary images are (N,3,H,W) floats in [0,1] and masks (N,1,H,W) or (1,1,H,W), 1 where an editor paints;
everything else (range, scaling, schedulers, text embeddings, dtype) is the model's own. Every model may have the
attributes `size` (working size in pixels; None or absent: the picture's own) and `multiple` (what height and width must
divide by; 8 if absent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Encodes(Protocol):
    """An encoder."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N,C,h,w) of images (N,3,H,W), differentiable in x."""


@runtime_checkable
class Decodes(Protocol):
    """A decoder."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1] of latents (N,C,h,w)."""


@dataclass(frozen=True)
class EditOptions:
    """How an edit runs. None is the model's own default.

    steps: denoising steps. guidance: scale of classifier-free guidance. eta: share of fresh noise in each DDIM step
    (0 to 1; samplers without it ignore it). strength: how much of the picture is given up where the model begins with
    it (0 to 1). gradient_steps: how many of the denoising steps, the last ones, carry gradient through the network.
    """

    steps: int | None = None
    guidance: float | None = None
    eta: float = 0.0
    strength: float | None = None
    gradient_steps: int | None = None


DEFAULT_OPTIONS = EditOptions()


@runtime_checkable
class Edits(Protocol):
    """An editor that is told in words what to paint, or fills the region without being told."""

    def edit(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """The edited images (N,3,H,W), differentiable in x. Image i has `prompts[i]` and draws from `generators[i]`."""


@runtime_checkable
class Denoises(Protocol):
    """A denoiser conditioned on a picture."""

    def predict_noise(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """What the network predicts (N,C,h,w) at the first, noisiest step of such an edit; differentiable in x."""
