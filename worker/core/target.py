"""Target pictures: what an edit is steered towards, as a function of the originals."""

from __future__ import annotations

import torch
from torch import Tensor

PICTURES = ("gray", "farthest", "inverted", "noise")


def target_picture(name: str, x: Tensor) -> Tensor:
    """The target called `name` for originals x (N,3,H,W) in [0,1], of the same height and width.

    `gray` (1,3,H,W): mid gray (PhotoGuard). `farthest`: the pure red, green or blue that differs most from the image's
    mean colour (run-time backdoor, equation 14). `inverted`: 1 - x. `noise` (1,3,H,W): uniform, always the same.
    """
    if name == "gray":
        return torch.full_like(x[:1], 0.5)
    if name == "inverted":
        return 1 - x
    if name == "noise":
        drawn = torch.rand((1, *x.shape[1:]), generator=torch.Generator().manual_seed(0))
        return drawn.to(x.device, x.dtype)
    if name == "farthest":
        primaries = torch.eye(3, device=x.device, dtype=x.dtype)
        distance = (x.mean((2, 3)).unsqueeze(1) - primaries).norm(dim=2)
        return primaries[distance.argmax(1)].view(-1, 3, 1, 1).expand_as(x)
    raise ValueError(f"no target picture called {name!r}; there are {', '.join(PICTURES)}")
