"""Trains the reference autoencoder: an encoder that learns a teacher's latents, a decoder that learns to invert it.

    python -m worker.reference.autoencoder encoder --teacher FILE.py:NAME --work DIR [--steps N]
    python -m worker.reference.autoencoder decoder --work DIR [--steps N]
    python -m worker.reference.autoencoder save --work DIR --out FOLDER

Plain reconstruction gives a nearly linear encoder that no attack moves, which makes a useless bench. So the encoder is
distilled, and on half of every batch it is distilled where attacks go: on pictures perturbed by a few steps against
the teacher, which show what moves it, or against the student itself, which show what must not. Perturbations against
the student alone make it harder to move than its teacher is. Both stages resume from DIR/stage.pt.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.models.abilities import Encodes
from worker.models.external import load_python
from worker.reference import pictures
from worker.reference.training import Run

WIDTH = 64
LATENT_CHANNELS = 32
ENCODER_BLOCKS = (0, 3, 4, 8)  # none at full resolution, where convolutions cost most
DECODER_BLOCKS = (3, 3, 3, 1)
BANK_SIZE = 256
PIXELS = 2 * 256 * 256  # in a batch
CROPS = (96, 128, 192, 256)
AGAINST_STUDENT = 0.1  # of the perturbed half-batches; the others are perturbed against the teacher
KINDS = ((pictures.dead_leaves, 0.65), (pictures.noise, 0.18), (pictures.strokes, 0.17))


def build() -> Any:
    """The untrained model, as a diffusers AutoencoderTiny."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=ENCODER_BLOCKS,
        num_decoder_blocks=DECODER_BLOCKS,
        latent_channels=LATENT_CHANNELS,
    )


def generated(index: int) -> pictures.Picture:
    rng = np.random.default_rng([7, index])
    kind = rng.choice(len(KINDS), p=[weight for _, weight in KINDS])
    return KINDS[kind][0](rng, BANK_SIZE)


def open_bank(path: Path, count: int) -> NDArray[np.uint8]:
    """The generated pictures (count,256,256,3), made once and then read from the file."""
    if not path.exists():
        staging = path.with_suffix(".part")
        shape = (count, BANK_SIZE, BANK_SIZE, 3)
        bank = np.lib.format.open_memmap(staging, "w+", np.uint8, shape)
        with multiprocessing.get_context("spawn").Pool() as pool:
            for index, picture in enumerate(pool.imap(generated, range(count), chunksize=16)):
                bank[index] = picture
        bank.flush()
        staging.rename(path)
    return np.load(path, mmap_mode="r")


def batch(rng: np.random.Generator, bank: NDArray[np.uint8]) -> Tensor:
    """Pictures (n,3,s,s) in [0,1]: crops of one random size, photographs and generated ones mixed."""
    side = int(rng.choice(CROPS))
    crops = []
    for _ in range(PIXELS // side**2):
        if rng.random() < 0.45:
            crop = pictures.photograph(rng, side)
        else:
            top, left = rng.integers(0, BANK_SIZE - side + 1, 2)
            crop = bank[rng.integers(len(bank)), top : top + side, left : left + side]
            crop = np.rot90(crop, int(rng.integers(4)))
            if rng.random() < 0.5:
                crop = crop[:, ::-1]
        crops.append(crop)
    values = torch.from_numpy(np.ascontiguousarray(np.stack(crops)))
    return values.permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)


def perturb(encoder: nn.Module, x: Tensor, rng: np.random.Generator) -> Tensor:
    """`x` after one to five sign steps that move its latents to gray's, to zero, or to another picture's."""
    epsilon = float(np.exp(rng.uniform(np.log(2), np.log(16)))) / 255
    kind, steps = rng.integers(3), int(rng.integers(1, 6))
    with torch.no_grad(), autocast(x):
        other = x.roll(1, 0) if len(x) > 1 else x.flip(3)
        target = encoder(torch.full_like(x, 0.5) if kind == 0 else other) * float(kind != 1)
    start = (torch.rand(x.shape) * 2 - 1).to(x.device) * epsilon
    x_adv = (x + start * (rng.random() < 0.5)).clamp(0, 1)
    for step in range(steps):
        leaf = x_adv.detach().requires_grad_()
        with autocast(x):
            loss = (encoder(leaf) - target).float().square().mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        stride = epsilon * (1.2 if steps == 1 else 1 - 0.8 * step / (steps - 1))
        x_adv = (leaf - stride * gradient.sign()).detach()
        x_adv = torch.minimum(torch.maximum(x_adv, x - epsilon), x + epsilon).clamp(0, 1)
    return x_adv


def autocast(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, dtype=torch.bfloat16)


def train_encoder(model: Any, teacher: Encodes, bank: NDArray[np.uint8], run: Run) -> None:
    encoder = model.encoder

    def encode(x: Tensor) -> Tensor:
        latents: Tensor = encoder(x * 2 - 1)
        return latents

    student, attackable = Called(encode), Called(teacher.encode)
    for x, rng in run.batches(lambda rng: batch(rng, bank)):
        half = len(x) // 2
        if half:
            victim = student if rng.random() < AGAINST_STUDENT else attackable
            x = torch.cat([x[:half], perturb(victim, x[half:], rng)])
        with autocast(x):
            with torch.no_grad():
                wanted = teacher.encode(x).float()
            latents = encode(x).float()
        error = (latents - wanted).square().mean((1, 2, 3)) / (wanted.square().mean((1, 2, 3)) + 0.05)
        run.update(error.mean())


def train_decoder(model: Any, bank: NDArray[np.uint8], run: Run) -> None:
    for x, _ in run.batches(lambda rng: batch(rng, bank)):
        with autocast(x):
            with torch.no_grad():
                latents = model.encoder(x * 2 - 1)
            made = (model.decoder(latents).float() + 1) / 2
        run.update((made - x).square().mean() * 20 + (made - x).abs().mean())


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function


def save(work: Path, out: Path) -> None:
    """Both averaged halves as a diffusers folder, in half precision (half the bytes; loaded as float32)."""
    model = build()
    for name in ("encoder", "decoder"):
        getattr(model, name).load_state_dict(
            torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["average"]
        )
    model.half().save_pretrained(out)
    config = out / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": ""}, indent=2) + "\n")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("encoder", "decoder", "save"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the picture bank and checkpoints")
    parser.add_argument("--teacher", help="FILE.py:NAME of an encoder with encode(x)")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--pictures", type=int, default=6000, help="generated pictures in the bank")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage == "save":
        save(options.work, options.out)
        return
    device = torch.device(options.device)
    bank = open_bank(options.work / "pictures.npy", options.pictures)
    model = build().to(device, memory_format=torch.channels_last)
    path = options.work / f"{options.stage}.pt"
    run = Run(getattr(model, options.stage), path, options.steps, device)
    if options.stage == "encoder":
        train_encoder(model, load_python(options.teacher), bank, run)
    else:
        trained = torch.load(options.work / "encoder.pt", map_location=device, weights_only=True)
        model.encoder.load_state_dict(trained["average"])
        model.encoder.requires_grad_(False)
        train_decoder(model, bank, run)


if __name__ == "__main__":
    main(sys.argv[1:])
