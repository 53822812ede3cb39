# ruff: noqa: ARG002 - every forward has the same arguments, whatever it does with them
"""Small inpainters of every convention, to be saved as the TorchScript files that people pass around."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Paints(nn.Module):
    """[0,1] in and out, 1 in the mask is the hole, and the hole is not seen. Blurs the known colours into it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first, self.last = nn.Conv2d(4, width, 5, padding=2), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        seen = F.relu(self.first(torch.cat([image * (1 - mask), mask], 1)))
        return torch.sigmoid(self.last(seen) * 4)


class Exported(nn.Module):
    """The same painter behind other conventions."""

    def __init__(self, taken: tuple[float, float], given: tuple[float, float], known: bool) -> None:
        super().__init__()
        self.painter, self.taken, self.given, self.known = Paints(), taken, given, known

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        low, high = self.taken
        made = self.painter((image - low) / (high - low), 1 - mask if self.known else mask)
        low, high = self.given
        return made * (high - low) + low


class Echo(nn.Module):
    """What it is shown, bytes and all."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image.clone()


class Told(nn.Module):
    """The mask, as it is told it."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return mask.expand_as(image) + image * 0


class Beyond(nn.Module):
    """Colours far outside of its range."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * 20 - 10


class Noise(nn.Module):
    """Nothing but noise, of its own drawing."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return torch.rand_like(image) + image * 0


class Mean(nn.Module):
    """The mean of all that is known, seen from everywhere; sides of a multiple of 8 or nothing."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        if image.shape[2] % 8 != 0 or image.shape[3] % 8 != 0:
            raise ValueError("sides must divide by 8")
        known = (1 - mask).expand_as(image)
        mean = (image * known).sum([1, 2, 3], keepdim=True) / known.sum([1, 2, 3], keepdim=True)
        return mean.expand_as(image)


class Square(nn.Module):
    """Pictures of 32×32 alone, as an export whose positions were fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.painter, self.place = Paints(), nn.Parameter(torch.zeros(1, 3, 32, 32))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.painter(image, mask) + self.place


class Styled(nn.Module):
    """As MAT is exported: with a style of its own, for one picture, in [-1,1]; 1 is known; features drop out always."""

    def __init__(self) -> None:
        super().__init__()
        self.painter = Paints()
        self.register_buffer("style", torch.full((1, 3, 32, 32), 0.1))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        seen = F.dropout(torch.cat([image * mask, self.style], 1), 0.5, True)
        return self.painter(seen[:, :3] + seen[:, 3:], 1 - mask) * 2 - 1


class Writes(nn.Module):
    """Writes into what it is given."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        image.mul_(1 - mask)
        mask.zero_()
        return image


class Further(nn.Module):
    """A third argument, which has a default."""

    def forward(self, image: Tensor, mask: Tensor, share: float = 0.5) -> Tensor:
        return image * share


class One(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image


class Three(nn.Module):
    def forward(self, image: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        return image


class Number(nn.Module):
    def forward(self, image: Tensor, mask: float) -> Tensor:
        return image


class NoForward(nn.Module):
    @torch.jit.export
    def paint(self, image: Tensor, mask: Tensor) -> Tensor:
        return image


class Halved(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image[..., ::2, ::2]


class Grey(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image[:, :1]


class Pair(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return image, mask


class Raises(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        raise ValueError("/some/secret/path")


class Detached(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image.detach() * 0.5


class Bytes(nn.Module):
    """In whole levels: no gradient goes through."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return (image * 255).to(torch.uint8).float() / 255


class Huge(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image + torch.zeros([1 << 58])[0]


class Full(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


def save(network: nn.Module, file: Path) -> Path:
    """`network`, scripted, in its own precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        torch.jit.script(network.eval()).save(str(file))
    return file


def save_traced(network: nn.Module, file: Path, side: int) -> Path:
    """`network`, traced on squares, as exports of MAT are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network.eval(), (torch.rand(1, 3, side, side), torch.zeros(1, 1, side, side))).save(str(file))
    return file
