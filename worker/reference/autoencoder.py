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
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.models.abilities import Encodes
from worker.models.external import load_python
from worker.reference import pictures

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


class Optimizer:
    """Muon (Jordan et al. 2024) for the convolutions' matrices, AdamW for the rest, one schedule over both.

    torch's Muon takes matrices only: each convolution's weight is handed to it as an (out, in*k*k) view of itself.
    """

    def __init__(self, module: nn.Module, muon_rate: float = 0.012, adam_rate: float = 1e-3) -> None:
        self._convolutions = [p for p in module.parameters() if p.ndim == 4 and min(p.shape[:2]) > 3]
        taken = {id(p) for p in self._convolutions}
        rest = [p for p in module.parameters() if id(p) not in taken]
        self._matrices = [nn.Parameter(_matrix(p.data)) for p in self._convolutions]
        self._parts = (
            torch.optim.Muon(self._matrices, lr=muon_rate, weight_decay=0.05, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.99), weight_decay=1e-4),
        )
        self._rates = (muon_rate, adam_rate)
        self._all = list(module.parameters())

    def step(self, loss: Tensor, scale: float) -> None:
        """One update with the learning rates scaled by `scale`."""
        for parameter in self._all:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._all, 1.0)
        for matrix, parameter in zip(self._matrices, self._convolutions, strict=True):
            assert parameter.grad is not None
            matrix.grad = _matrix(parameter.grad)
        for part, rate in zip(self._parts, self._rates, strict=True):
            part.param_groups[0]["lr"] = rate * scale
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


def _matrix(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over 200 steps, then linear to zero."""
    return min(1.0, (step + 1) / 200) * max(0.0, 1 - step / steps)


def train_encoder(model: Any, teacher: Encodes, bank: NDArray[np.uint8], run: Run) -> None:
    encoder = model.encoder

    def encode(x: Tensor) -> Tensor:
        latents: Tensor = encoder(x * 2 - 1)
        return latents

    student, attackable = _Call(encode), _Call(teacher.encode)
    for x, rng in run.batches(bank):
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
    for x, _ in run.batches(bank):
        with autocast(x):
            with torch.no_grad():
                latents = model.encoder(x * 2 - 1)
            made = (model.decoder(latents).float() + 1) / 2
        run.update((made - x).square().mean() * 20 + (made - x).abs().mean())


class _Call(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function


class Run:
    """One stage of training: its optimiser, average of weights, random state and checkpoint."""

    def __init__(self, module: nn.Module, path: Path, steps: int, device: torch.device) -> None:
        self._module, self._path, self._steps, self._device = module, path, steps, device
        self._optimizer = Optimizer(module)
        self.average = {name: value.clone() for name, value in module.state_dict().items()}
        self._step, self._smooth = 0, math.nan
        if path.exists():
            saved = torch.load(path, map_location=device, weights_only=True)
            module.load_state_dict(saved["module"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self.average, self._step = saved["average"], saved["step"]

    def batches(self, bank: NDArray[np.uint8]) -> Iterator[tuple[Tensor, np.random.Generator]]:
        began = saved = time.monotonic()
        first = self._step
        while self._step < self._steps:
            rng = np.random.default_rng([11, self._step])  # so that a resumed run sees what an unbroken one would
            torch.manual_seed(self._step)
            yield batch(rng, bank).to(self._device), rng
            self._step += 1
            if self._step % 100 == 0:
                pace = (time.monotonic() - began) / (self._step - first)
                print(f"step {self._step}/{self._steps} loss {self._smooth:.4f} {pace:.2f} s a step", flush=True)
            if time.monotonic() - saved > 300:
                self.save()
                saved = time.monotonic()
        self.save()

    def update(self, loss: Tensor) -> None:
        error = loss.item()
        if not math.isnan(self._smooth) and not error < 5 * self._smooth:
            return  # a batch far off the rest: its gradient would undo hours
        self._optimizer.step(loss, schedule(self._step, self._steps))
        keep = min(0.999, self._step / (self._step + 10))
        for name, value in self._module.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)
        self._smooth = error if math.isnan(self._smooth) else 0.99 * self._smooth + 0.01 * error

    def save(self) -> None:
        staging = self._path.with_suffix(".part")
        state = {
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self.average,
            "step": self._step,
        }
        torch.save(state, staging)
        staging.replace(self._path)


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
