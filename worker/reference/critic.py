"""The critic that the reference inpainters are trained against: a patch discriminator (Isola et al. 2017).

Spectral normalisation (Miyato et al. 2018) keeps it steady without a penalty on its gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CELL = 8  # pixels in the side of what one score judges
WIDTHS = (32, 64, 128, 128)


class Critic(nn.Module):
    """Pictures (N,3,H,W) in [0,1] to the maps of every layer; the last (N,1,H/8,W/8) are the scores, high for real."""

    def __init__(self) -> None:
        super().__init__()
        layers, before = [], 3
        for width, stride in zip(WIDTHS, (2, 2, 2, 1), strict=True):
            layers.append(spectral_norm(nn.Conv2d(before, width, 4 if stride == 2 else 3, stride, 1)))
            before = width
        self.layers = nn.ModuleList(layers)
        self.score = spectral_norm(nn.Conv2d(before, 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, x = [], x * 2 - 1
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            maps.append(x)
        return [*maps, self.score(x)]


def critic_loss(real: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """The hinge loss of the critic's scores. What is known in a made picture is real (Suvorov et al. 2022)."""
    hole = F.max_pool2d(mask, CELL)
    false = F.relu(1 + made) * hole + F.relu(1 - made) * (1 - hole)
    return F.relu(1 - real).mean() + false.mean()


def fooling(scores: Tensor, mask: Tensor) -> Tensor:
    """What the inpainter minimises to pass for real where it painted."""
    hole = F.max_pool2d(mask, CELL)
    return -(scores * hole).sum() / hole.sum()


def feature_matching(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """The mean distance of the critic's maps, each relative to the size of the real picture's (Wang et al. 2018)."""
    errors = [
        (b.float() - a.float()).abs().mean() / (a.float().abs().mean() + 1e-3) for a, b in zip(real, made, strict=True)
    ]
    return sum(errors[1:], errors[0]) / len(errors)
