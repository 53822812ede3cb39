"""Trains the reference editor: text-guided latent inpainting on the reference autoencoder's latents.

    python -m worker.reference.editor train --work DIR [--steps N] [--samples N] [--device cuda]
    python -m worker.reference.editor save --work DIR --out FOLDER

Training resumes from DIR/editor.pt; DIR/bank holds the latents, made on the first run. The network is that of Stable
Diffusion's inpainting model in small (Rombach et al. 2022): noisy latents, mask and the blanked picture's latents in,
a velocity out (Salimans and Ho 2022), text by cross-attention, on a schedule that ends in pure noise (Lin et al. 2024),
so that a few steps are enough. Set OMP_WAIT_POLICY=passive on a CPU that does other work.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.contracts.catalog import DEFAULT_MODEL, load_models
from worker.models import registry
from worker.models.pool import Pool, pick_device
from worker.reference.samples import CELL, SIZE, Bank, make_bank
from worker.reference.training import Run
from worker.reference.words import LENGTH, tokenizer

CHANNELS = 32
WIDTHS = (80, 112)
TEXT_WIDTH = 96
WINDOWS = {8: (64, 0.4), 12: (36, 0.25), 16: (24, 0.35)}  # side in cells: how many in a batch, how often
UNGUIDED = 0.12  # of the captions are dropped, for classifier-free guidance
OUTSIDE = 0.25  # weight of what is known anyway


class Editor(nn.Module):
    """The trained parts, of the classes that StableDiffusionInpaintPipeline is made of."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        words = tokenizer()
        unet: Any = UNet2DConditionModel(
            sample_size=SIZE // CELL,
            in_channels=2 * CHANNELS + 1,
            out_channels=CHANNELS,
            block_out_channels=WIDTHS,
            layers_per_block=(2, 1),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
            norm_num_groups=16,
        )
        self.unet = unet.to(memory_format=torch.channels_last)
        self.text_encoder: Any = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                projection_dim=TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        )


def scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # without meaning for this spacing; the pipeline asks for it
        clip_sample=False,
        set_alpha_to_one=True,
    )


class Batches:
    """Draws windows of the bank's latents, most of them around the hole: known surroundings teach little."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        words = tokenizer()
        texts = sorted(set(bank.captions))
        ids = words(["", *texts], padding="max_length", truncation=True, max_length=LENGTH).input_ids
        self.tokens = torch.tensor(ids)
        index = {text: position for position, text in enumerate(texts, 1)}
        self._texts = np.array([index[caption] for caption in bank.captions])

    def __call__(self, rng: np.random.Generator) -> Tensor:
        """(n, 2*32+1+1, w, w): latents, blanked latents, hole, and the caption's number in every cell."""
        side = int(rng.choice(list(WINDOWS), p=[often for _, often in WINDOWS.values()]))
        parts = []
        for index in rng.integers(len(self._bank), size=WINDOWS[side][0]):
            hole = self._bank.holes[index]
            _, rows, columns = np.nonzero(hole)
            pick = rng.integers(len(rows)) if len(rows) else None
            centre = (8, 8) if pick is None else (rows[pick], columns[pick])
            top, left = (int(np.clip(c - side // 2 + rng.integers(-1, 2), 0, hole.shape[-1] - side)) for c in centre)
            window = (slice(None), slice(top, top + side), slice(left, left + side))
            text = 0 if rng.random() < UNGUIDED else self._texts[index]
            number = np.full((1, side, side), text, np.float32)
            latents, blanked = self._bank.latents[index][window], self._bank.blanked[index][window]
            parts.append(np.concatenate([latents, blanked, hole[window], number], dtype=np.float32))
        return torch.from_numpy(np.stack(parts))


def loss(editor: Editor, batch: Tensor, tokens: Tensor, alphas: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity at random noise levels."""
    latents, blanked, hole, number = batch.split([CHANNELS, CHANNELS, 1, 1], 1)
    level = torch.randint(len(alphas), (len(batch),)).to(batch.device)
    keep = alphas[level].sqrt().view(-1, 1, 1, 1)
    rest = (1 - alphas[level]).sqrt().view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape).to(batch.device)
    seen = torch.cat([keep * latents + rest * noise, hole, blanked], 1).contiguous(memory_format=torch.channels_last)
    with torch.autocast(batch.device.type, dtype=torch.bfloat16):
        told, back = number[:, 0, 0, 0].long().unique(return_inverse=True)
        text = editor.text_encoder(tokens[told].to(batch.device))[0][back]
        velocity = editor.unet(seen, level, text).sample.float()
    error = (velocity - (keep * noise - rest * latents)).square().mean(1, keepdim=True)
    return (error * (hole + OUTSIDE * (1 - hole))).sum() / (hole + OUTSIDE * (1 - hole)).sum()


def train(work: Path, steps: int, samples: int, device: torch.device) -> None:
    pool = Pool(load_models(None), device)
    bank = make_bank(work / "bank", samples, pool.get(DEFAULT_MODEL), device)
    torch.manual_seed(0)
    editor = Editor().to(device)
    draw = Batches(bank)
    alphas = scheduler().alphas_cumprod.to(device)
    run = Run(editor, work / "editor.pt", steps, device)
    for batch, _ in run.batches(draw):
        run.update(loss(editor, batch, draw.tokens, alphas))


def save(work: Path, out: Path) -> None:
    """Write the averaged weights, in half precision, as a diffusers folder with the autoencoder in it."""
    from diffusers import AutoencoderTiny, StableDiffusionInpaintPipeline

    editor = Editor()
    editor.load_state_dict(torch.load(work / "editor.pt", map_location="cpu", weights_only=True)["average"])
    source = registry.require(load_models(None)[DEFAULT_MODEL])
    pipeline: Any = StableDiffusionInpaintPipeline(
        vae=AutoencoderTiny.from_pretrained(source),
        text_encoder=editor.text_encoder,
        tokenizer=tokenizer(),
        unet=editor.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    staging = out.with_name(f"{out.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(staging, safe_serialization=True)
    shutil.rmtree(staging / "vae")
    shutil.copytree(source, staging / "vae")  # as it is, its card too
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", staging)
    shutil.rmtree(out, ignore_errors=True)
    staging.rename(out)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("--steps", type=int, default=30_000)
    training.add_argument("--samples", type=int, default=60_000)
    training.add_argument("--device", default="auto")
    saving = commands.add_parser("save")
    saving.add_argument("--out", type=Path, required=True)
    for command in (training, saving):
        command.add_argument("--work", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.command == "train":
        options.work.mkdir(parents=True, exist_ok=True)
        train(options.work, options.steps, options.samples, pick_device(options.device))
    else:
        save(options.work, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
