"""Published networks at full size with random weights: what they cost is measured without anybody's licence."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from service.contracts.torchscript import InpaintOptions
from worker.models.torchscript import Inpainter
from worker.reference.inpainter import scripted
from worker.reference.lama import GLOBAL, Around, Block, around, normalised

WIDTHS = (128, 256, 512, 512)


def sd15_autoencoder() -> Any:
    """The autoencoder of Stable Diffusion 1.5 (84 million weights)."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def sd15_inpainting(dtype: torch.dtype) -> Any:
    """Stable Diffusion 1.5's inpainting pipeline: 860 million weights in the UNet, 123 million in the text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from worker.reference.words import tokenizer

    words = tokenizer()
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=64, in_channels=9, out_channels=4, cross_attention_dim=768, attention_head_dim=8
    )
    text: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )
    schedule = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return StableDiffusionInpaintPipeline(
        vae=sd15_autoencoder().to(dtype),
        text_encoder=text.to(dtype),
        tokenizer=words,
        unet=unet.to(dtype),
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class BigLama(nn.Module):
    """LaMa's largest published generator: 18 blocks of 512 channels, 51 million weights (Suvorov et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        down: list[nn.Module] = [normalised(around(4, 64, 7), 64)]
        up: list[nn.Module] = []
        for fine in (64, 128, 256):
            down.append(normalised(around(fine, 2 * fine, 3, stride=2), 2 * fine))
            raised = nn.ConvTranspose2d(2 * fine, fine, 3, stride=2, padding=1, output_padding=1)
            up.insert(0, normalised(raised, fine))
        self.near = 512 - int(512 * GLOBAL)
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
        self.blocks = nn.ModuleList([Block(512) for _ in range(18)])
        self.out = Around(64, 3, 7)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x = self.down(torch.cat([image * (1 - mask), mask], 1))
        near, far = x[:, : self.near], x[:, self.near :]
        for block in self.blocks:
            near, far = block(near, far)
        made = torch.sigmoid(self.out(self.up(torch.cat([near, far], 1))))
        return image * (1 - mask) + made * mask


def big_lama(device: torch.device) -> Inpainter:
    """It as the TorchScript that it is passed around as, read back."""
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        torch.jit.save(scripted(BigLama()), file)
        file.seek(0)
        network = torch.jit.load(file, map_location=device)  # type: ignore[no-untyped-call]
    return Inpainter("big-lama", network, InpaintOptions(), size=None, device=device, dtype=torch.float32)
