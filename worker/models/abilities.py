"""What an attack may ask of a model. Structural: any object with the method will do.

At every boundary images are (N,3,H,W) floats in [0,1]; everything else (range, scaling, dtype) is the model's own.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Encodes(Protocol):
    """An encoder. Optional attributes: `size` (working size in pixels; None or absent: the picture's own) and
    `multiple` (what height and width must divide by; 8 if absent)."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N,C,h,w) of images (N,3,H,W), differentiable in x."""


@runtime_checkable
class Decodes(Protocol):
    """A decoder."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1] of latents (N,C,h,w)."""
