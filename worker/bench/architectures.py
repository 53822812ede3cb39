"""Published networks at full size with random weights: what they cost is measured without anybody's licence."""

from __future__ import annotations

from typing import Any

import torch

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
