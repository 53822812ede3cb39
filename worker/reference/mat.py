"""The network of `reference-mat`: an inpainter whose attention skips what is not known (Li et al. 2022, section 3).

The distilled stem brings picture and mask to tokens of 8x8 pixels; five groups of window attention at 1/8, 1/16, 1/32,
1/16 and 1/8 of the size fill them; convolutions bring them back. A token in the hole is invalid: nothing attends to it
until attention has filled it from a window that holds a valid one. There are no norms, and a block's attention is fused
with its input by a matrix instead of being added, as in the paper. Its style branch, which draws one of several fills
at random, is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.reference.stem import FEATURES, Stem, hidden

CHANNELS = 56  # of a token
HEADS = 4
WINDOW = 8
GROUPS = (2, 2, 3, 2, 2)  # blocks at each of the five scales
RISING = (48, 24, 16)  # channels at 1/4, 1/2 and all of the size
MULTIPLE = 32
SKIPPED = -100.0  # what is added to the score of an invalid token


class Attention(nn.Module):
    """Multi-head attention inside windows, over valid tokens alone; the second of two sees windows shifted by half."""

    def __init__(self, channels: int, shift: int) -> None:
        super().__init__()
        self.shift, self.window, self.heads, self.skipped = (
            shift,
            WINDOW,
            HEADS,
            SKIPPED,
        )  # TorchScript reads no globals
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.offset = nn.Parameter(torch.zeros(HEADS, (2 * WINDOW - 1) ** 2))
        row = torch.arange(WINDOW).repeat_interleave(WINDOW)
        column = torch.arange(WINDOW).repeat(WINDOW)
        rows, columns = row[:, None] - row[None] + WINDOW - 1, column[:, None] - column[None] + WINDOW - 1
        place = (rows * (2 * WINDOW - 1) + columns).to(torch.uint8)  # a byte each: TorchScript files hold buffers too
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """x (N,C,H,W) and valid (N,1,H,W) in {0,1}, both as they are after it."""
        count, channels, height, width = x.shape
        right, below = -(width + self.shift) % self.window, -(height + self.shift) % self.window
        sides = [self.shift, right, self.shift, below]  # tokens beyond the border are invalid ones
        tokens = windows(F.pad(self.query_key_value(x), sides), self.window)
        known = windows(F.pad(valid, sides), self.window)
        q, k, v = tokens.unflatten(-1, [3 * self.heads, channels // self.heads]).transpose(1, 2).chunk(3, 1)
        place = self.offset[:, self.place.long()].to(q.dtype)  # type: ignore[operator]
        bias = place[None] + ((1 - known) * self.skipped).transpose(1, 2)[:, None].to(q.dtype)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        known = known.amax(1, keepdim=True).expand_as(known)
        rows, columns = height + self.shift + below, width + self.shift + right
        made = joined(torch.cat([seen, known.to(seen.dtype)], -1), count, rows, columns, self.window)
        made = made[..., self.shift : self.shift + height, self.shift : self.shift + width]
        return self.out(made[:, :channels]), made[:, channels:].to(valid.dtype)


def windows(x: Tensor, side: int) -> Tensor:
    """(N,C,H,W) as (windows, tokens, C)."""
    x = x.unflatten(3, [-1, side]).unflatten(2, [-1, side])
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def joined(tokens: Tensor, count: int, height: int, width: int, side: int) -> Tensor:
    """The inverse of `windows`."""
    x = tokens.view(count, height // side, width // side, side, side, tokens.shape[-1])
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class Block(nn.Module):
    """Attention fused with what came in, then a perceptron around which what came in is added."""

    def __init__(self, channels: int, shift: int) -> None:
        super().__init__()
        self.attention = Attention(channels, shift)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)
        self.widen, self.narrow = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        seen, valid = self.attention(x, valid)
        x = self.fuse(torch.cat([x, seen], 1))
        return x + self.narrow(F.gelu(self.widen(x))), valid


class Group(nn.Module):
    """Blocks of one scale, a convolution after them, and a way around all."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(channels, WINDOW // 2 * (index % 2)) for index in range(blocks)])
        self.after = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        made = x
        for block in self.blocks:
            made, valid = block(made, valid)
        return x + self.after(made), valid


def activated(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.2, inplace=True))


class Mat(nn.Module):
    """image (N,3,H,W) in [0,1] and mask (N,1,H,W), 1 where to paint; sides of a multiple of 32. The painted picture."""

    def __init__(self, channels: int = CHANNELS, groups: tuple[int, ...] = GROUPS) -> None:
        super().__init__()
        self.stem = Stem()
        self.join = activated(FEATURES + 64, channels)
        self.fall_8, self.fall_16, self.deepest, self.rise_16, self.rise_8 = (
            Group(channels, blocks) for blocks in groups
        )
        self.to_16, self.to_32 = activated(channels, channels, 2), activated(channels, channels, 2)
        self.from_32, self.from_16 = activated(2 * channels, channels), activated(2 * channels, channels)
        four, two, one = RISING
        self.to_four, self.to_two, self.to_one = activated(channels, four), activated(four, two), activated(two, one)
        self.out = nn.Conv2d(one, 3, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        tokens = self.join(torch.cat([self.stem(hidden(image, mask)), F.pixel_unshuffle(mask, 8)], 1))
        eight, valid_8 = self.fall_8(tokens, F.max_pool2d(1 - mask, 8))
        sixteen, valid_16 = self.fall_16(self.to_16(eight), F.max_pool2d(valid_8, 2))
        x, valid = self.deepest(self.to_32(sixteen), F.max_pool2d(valid_16, 2))
        x = self.from_32(torch.cat([doubled(x), sixteen], 1))
        x, valid = self.rise_16(x, torch.maximum(doubled(valid), valid_16))
        x = self.from_16(torch.cat([doubled(x), eight], 1))
        x, valid = self.rise_8(x, torch.maximum(doubled(valid), valid_8))
        x = self.to_one(doubled(self.to_two(doubled(self.to_four(doubled(x))))))
        return image * (1 - mask) + torch.sigmoid(self.out(x)) * mask


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
