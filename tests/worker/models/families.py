"""Tiny pipelines of every family of editors, with seeded random weights, in the folders that diffusers writes.

What makes a family is kept: channels, predictions, schedulers, text encoders, scale and shift of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.reference.words import tokenizer

WIDTH = 32  # of all text embeddings
SHIFT = {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False}
T5_TOKENS = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]


def vae(channels: int = 4, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        **config,
    )


def unet(taken: int, given: int = 4, **config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(in_channels=taken, out_channels=given, **options | config)


def clip(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(width: int = WIDTH) -> tuple[Any, Any]:
    """A tokenizer of letters, and its encoder."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    scores = [(token, -float(index)) for index, token in enumerate(T5_TOKENS)]
    letters = T5Tokenizer(vocab=scores, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(letters), d_model=width, d_kv=8, d_ff=width, num_layers=1, num_heads=2)
    return letters, T5EncoderModel(config)


def old_schedule(kind: str = "DDIMScheduler", **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, **config
    )


def stable_diffusion(name: str, schedule: Any, denoiser: Any, autoencoder: Any = None) -> Any:
    import diffusers

    return getattr(diffusers, name)(
        vae=autoencoder or vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=denoiser,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd1_inpaint() -> Any:
    schedule = old_schedule(clip_sample=False, set_alpha_to_one=False)
    return stable_diffusion("StableDiffusionInpaintPipeline", schedule, unet(9))


def sd1() -> Any:
    schedule = old_schedule("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=False)
    return stable_diffusion("StableDiffusionPipeline", schedule, unet(4))


def sd2() -> Any:
    schedule = old_schedule(clip_sample=False, prediction_type="v_prediction")
    return stable_diffusion("StableDiffusionPipeline", schedule, unet(4, use_linear_projection=True))


def sdxl_inpaint() -> Any:
    from diffusers import StableDiffusionXLInpaintPipeline

    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
        "cross_attention_dim": 2 * WIDTH,
        "use_linear_projection": True,
    }
    return StableDiffusionXLInpaintPipeline(
        vae=vae(force_upcast=True, scaling_factor=0.13025),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(9, **extra),
        scheduler=old_schedule("EulerDiscreteScheduler"),
    )


def pix2pix() -> Any:
    schedule = old_schedule("EulerAncestralDiscreteScheduler")
    return stable_diffusion("StableDiffusionInstructPix2PixPipeline", schedule, unet(8))


def sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    letters, reader = t5(2 * WIDTH)  # as wide as both CLIP encoders side by side
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, **SHIFT),
        text_encoder=clip(projected=True),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=reader,
        tokenizer_3=letters,
    )


def flux() -> Any:
    return _flux("FluxPipeline")


def kontext() -> Any:
    return _flux("FluxKontextPipeline")


def wide() -> Any:
    """As the reference editor: eight latent channels, and an AutoencoderTiny."""
    from diffusers import AutoencoderTiny

    autoencoder = AutoencoderTiny(
        latent_channels=8,
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        scaling_factor=0.7,
    )
    schedule = old_schedule(
        prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return stable_diffusion("StableDiffusionInpaintPipeline", schedule, unet(17, 8), autoencoder)


def _flux(name: str) -> Any:
    import diffusers

    letters, reader = t5()
    return getattr(diffusers, name)(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(16, **SHIFT),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=reader,
        tokenizer_2=letters,
    )


FOLDERS: dict[str, Callable[[], Any]] = {
    "sd1-inpaint": sd1_inpaint,
    "sd1": sd1,
    "sd2": sd2,
    "sdxl-inpaint": sdxl_inpaint,
    "pix2pix": pix2pix,
    "sd3": sd3,
    "flux": flux,
    "kontext": kontext,
    "wide": wide,
}


@dataclass(frozen=True)
class Family:
    """A folder, the kind it is loaded as, and what diffusers' own pipeline for that is called."""

    folder: str
    kind: str
    stock: str
    mask_channels: bool = False
    multiple: int = 8


FAMILIES = {
    "SD 1 inpaint": Family("sd1-inpaint", "diffusers-inpaint", "StableDiffusionInpaintPipeline", mask_channels=True),
    "SD 1 as inpaint": Family("sd1", "diffusers-inpaint", "StableDiffusionInpaintPipeline"),
    "SD 1 img2img": Family("sd1", "diffusers-img2img", "StableDiffusionImg2ImgPipeline"),
    "SD 2 img2img": Family("sd2", "diffusers-img2img", "StableDiffusionImg2ImgPipeline"),
    "SDXL inpaint": Family("sdxl-inpaint", "diffusers-inpaint", "StableDiffusionXLInpaintPipeline", mask_channels=True),
    "InstructPix2Pix": Family("pix2pix", "diffusers-instruct", "StableDiffusionInstructPix2PixPipeline"),
    "SD 3 img2img": Family("sd3", "diffusers-img2img", "StableDiffusion3Img2ImgPipeline", multiple=16),
    "SD 3 inpaint": Family("sd3", "diffusers-inpaint", "StableDiffusion3InpaintPipeline", multiple=16),
    "FLUX img2img": Family("flux", "diffusers-img2img", "FluxImg2ImgPipeline", multiple=16),
    "FLUX inpaint": Family("flux", "diffusers-inpaint", "FluxInpaintPipeline", multiple=16),
    "FLUX Kontext": Family("kontext", "diffusers-instruct", "FluxKontextPipeline", multiple=16),
    "wide inpaint": Family("wide", "diffusers-inpaint", "", mask_channels=True),
}


def save(name: str, folder: Path) -> Path:
    """The pipeline `name` of FOLDERS, written to `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        FOLDERS[name]().save_pretrained(folder, safe_serialization=True)
    return folder
