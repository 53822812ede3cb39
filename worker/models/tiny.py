"""AutoencoderTiny (the TAESD family) straight from a diffusers folder.

The same network as `diffusers.AutoencoderTiny`, tensor by tensor (a test holds the two equal). It is built here because
importing diffusers takes seven seconds, which is longer than immunizing a photograph takes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Block(nn.Module):
    """Three 3×3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.fuse = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fuse(self.conv(x) + x)
        return out


def encoder(config: dict[str, Any]) -> nn.Sequential:
    """Images (N,3,H,W) in [0,1] to latents (N,C,H/8,W/8) for the usual four stages."""
    layers: list[nn.Module] = []
    widths = config["encoder_block_out_channels"]
    for stage, (width, blocks) in enumerate(zip(widths, config["num_encoder_blocks"], strict=True)):
        if stage == 0:
            layers.append(nn.Conv2d(config["in_channels"], width, 3, padding=1))
        else:
            layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
        layers += [Block(width) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], config["latent_channels"], 3, padding=1))


def decoder(config: dict[str, Any]) -> nn.Sequential:
    """Latents to images in [0,1], not clamped."""
    widths, blocks = config["decoder_block_out_channels"], config["num_decoder_blocks"]
    layers: list[nn.Module] = [nn.Conv2d(config["latent_channels"], widths[0], 3, padding=1), nn.ReLU()]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        last = stage == len(blocks) - 1
        layers += [Block(width) for _ in range(count)]
        if not last:
            layers.append(nn.Upsample(scale_factor=config["upsampling_scaling_factor"], mode="nearest"))
        layers.append(nn.Conv2d(width, config["out_channels"] if last else width, 3, padding=1, bias=last))
    return nn.Sequential(*layers)


class TinyAutoencoder(nn.Module):
    """`encode` and `decode` between [0,1] pictures and latents in the diffusion model's own units."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        if config.get("act_fn", "relu") != "relu" or config.get("upsample_fn", "nearest") != "nearest":
            raise ValueError("an AutoencoderTiny is read with relu and nearest upsampling only")
        self.encoder = nn.ModuleDict({"layers": encoder(config)})
        self.decoder = nn.ModuleDict({"layers": decoder(config)})
        self._scale = float(config.get("scaling_factor", 1.0))
        self._shift = float(config.get("shift_factor", 0.0))
        self.multiple = 2 ** (len(config["num_encoder_blocks"]) - 1)

    @classmethod
    def from_folder(cls, folder: Path, weights: str = "diffusion_pytorch_model.safetensors") -> TinyAutoencoder:
        """Read `config.json` and the file `weights`; these become float32. Raises ValueError."""
        model = cls(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        model.load_state_dict({name: value.float() for name, value in load_file(folder / weights).items()})
        return model.eval().requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        latents: Tensor = self.encoder["layers"](x)
        return (latents - self._shift) * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        raw = latents / self._scale + self._shift
        image: Tensor = self.decoder["layers"](torch.tanh(raw / 3) * 3)
        return image.clamp(0, 1)
