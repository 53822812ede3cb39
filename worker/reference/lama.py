"""The network of `reference-lama`: an inpainter of fast Fourier convolutions (Suvorov et al. 2022, section 2.2).

A fast Fourier convolution keeps local channels, which see their neighbourhood, beside global ones, which are mixed in
the spectrum of the whole feature map (Chi, Jiang and Mu 2020). So the first block already sees all of the picture. In
place of the paper's three strided convolutions stands the distilled stem.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.reference.stem import FEATURES, Stem, hidden

CHANNELS = 80  # of a block
RISING = (48, 24, 16)  # at 1/4, 1/2 and all of the size
BLOCKS = 9
GLOBAL = 0.75  # of the channels of a block
MULTIPLE = 8


def normalised(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Around(nn.Conv2d):
    """A convolution that continues the map beyond its border by reflection (torch's own reflection has no fixed-order
    gradient on a GPU; this has)."""

    def forward(self, x: Tensor) -> Tensor:
        beyond = self.kernel_size[0] // 2
        above, below = x[:, :, 1 : beyond + 1].flip(2), x[:, :, -beyond - 1 : -1].flip(2)
        x = torch.cat([above, x, below], 2)
        left, right = x[..., 1 : beyond + 1].flip(3), x[..., -beyond - 1 : -1].flip(3)
        return F.conv2d(torch.cat([left, x, right], 3), self.weight, self.bias, self.stride)


def around(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return Around(inputs, outputs, size, stride, bias=False)


class FourierUnit(nn.Module):
    """Mixes channels at every frequency alike: a 1x1 convolution over the real and imaginary parts of the spectrum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = normalised(nn.Conv2d(2 * channels, 2 * channels, 1, bias=False), 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        parts = self.mix(torch.cat([spectrum.real, spectrum.imag], 1)).float()
        real, imaginary = parts.chunk(2, 1)
        mixed = torch.complex(real.contiguous(), imaginary.contiguous())
        return torch.fft.irfft2(mixed, s=(x.shape[-2], x.shape[-1]), norm="ortho").to(x.dtype)


class SpectralTransform(nn.Module):
    """The global path: reduce, mix in the spectrum, add, expand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = normalised(nn.Conv2d(channels, channels // 2, 1, bias=False), channels // 2)
        self.unit = FourierUnit(channels // 2)
        self.expand = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        expanded: Tensor = self.expand(reduced + self.unit(reduced))
        return expanded


class FastFourierConvolution(nn.Module):
    """(local, global) channels in and out, all four ways between them, then batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        far = int(channels * GLOBAL)
        near = channels - far
        self.near_near, self.far_near = around(near, near, 3), around(far, near, 3)
        self.near_far, self.far_far = around(near, far, 3), SpectralTransform(far)
        self.near_norm, self.far_norm = nn.BatchNorm2d(near), nn.BatchNorm2d(far)

    def forward(self, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        return (
            F.relu(self.near_norm(self.near_near(near) + self.far_near(far))),
            F.relu(self.far_norm(self.near_far(near) + self.far_far(far))),
        )


class Block(nn.Module):
    """Two fast Fourier convolutions and a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = FastFourierConvolution(channels), FastFourierConvolution(channels)

    def forward(self, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        near_made, far_made = self.first(near, far)
        near_made, far_made = self.second(near_made, far_made)
        return near + near_made, far + far_made


class Lama(nn.Module):
    """image (N,3,H,W) in [0,1] and mask (N,1,H,W), 1 where to paint; sides of a multiple of 8. The painted picture."""

    def __init__(self, channels: int = CHANNELS, blocks: int = BLOCKS, rising: Sequence[int] = RISING) -> None:
        super().__init__()
        self.stem = Stem()
        self.join = normalised(around(FEATURES + 64, channels, 3), channels)
        self.near = channels - int(channels * GLOBAL)
        self.blocks = nn.ModuleList([Block(channels) for _ in range(blocks)])
        up: list[nn.Module] = []
        coarse = channels
        for fine in rising:
            raised = nn.ConvTranspose2d(coarse, fine, 3, stride=2, padding=1, output_padding=1, bias=False)
            up.append(normalised(raised, fine))
            coarse = fine
        self.up = nn.Sequential(*up)
        self.out = Around(coarse, 3, 7)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        features = self.stem(hidden(image, mask))
        x = self.join(torch.cat([features, F.pixel_unshuffle(mask, 8)], 1))
        near, far = x[:, : self.near], x[:, self.near :]
        for block in self.blocks:
            near, far = block(near, far)
        made = torch.sigmoid(self.out(self.up(torch.cat([near, far], 1))))
        return image * (1 - mask) + made * mask
