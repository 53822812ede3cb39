"""The stem of the reference inpainters: what they see of a picture, features at an eighth of its size.

It is distilled from the encoder of `reference-autoencoder`, so that what moves a production encoder moves the
inpainters: an inpainter that learns its own stem from a few hours of reconstruction is nearly linear.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 48
BLOCKS = (0, 2, 2, 3)  # at 1, 1/2, 1/4 and 1/8 of the size
FEATURES = 32  # the teacher's latent channels


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.third(F.relu(self.second(F.relu(self.first(x))))))


class Stem(nn.Module):
    """Pictures (N,3,H,W) in [-1,1] to features (N,32,H/8,W/8)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for level, blocks in enumerate(BLOCKS):
            if level:
                layers.append(nn.Conv2d(width, width, 3, 2, 1, bias=False))
            layers += [Residual(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, FEATURES, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


def hidden(image: Tensor, mask: Tensor) -> Tensor:
    """The picture in [-1,1] with zero in the hole, as an editor's encoder sees it."""
    return image * (1 - mask) * 2 - 1 + mask
