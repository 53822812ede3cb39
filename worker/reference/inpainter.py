"""Trains the reference inpainters and writes them as TorchScript files.

    python -m worker.reference.inpainter train stem --work DIR [--steps N] [--device cuda]
    python -m worker.reference.inpainter train {lama,mat} --work DIR [--steps N] [--device cuda]
    python -m worker.reference.inpainter save {lama,mat} --work DIR --out FILE.pt

Plain reconstruction gives a nearly linear model that no attack moves, which makes a useless bench. So both see the
picture through a stem that is distilled from the reference encoder first, and then learn as their papers do: to be near
the picture, to match a critic's features, and to fool it. Every stage resumes from DIR/{name}.pt.

A network of a million weights is steadier than one of fifty. To be as easily moved as the published models are, the
stem learns to overreact: perturbed pictures move its features further than they move the teacher's (OVERREACTION). On
pictures that nobody perturbed it does what the teacher does.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.contracts.catalog import DEFAULT_MODEL, load_models
from worker.models.abilities import Encodes
from worker.models.pool import Pool
from worker.reference import critic, lama, mat, pictures
from worker.reference.autoencoder import BANK_SIZE, Called, autocast, open_bank, perturb
from worker.reference.critic import Critic
from worker.reference.holes import hole
from worker.reference.stem import Stem
from worker.reference.training import Run

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"stem": Stem, "lama": lama.Lama, "mat": mat.Mat}
PIXELS = 12 * 128 * 128  # in a batch
STEM_SIDES = ((64, 0.5), (128, 0.5))
SIDES = ((128, 0.5), (192, 0.15), (256, 0.35))
OVERREACTION = 1.5  # of the teacher's own reaction, added to it
PHOTOGRAPHS = 0.65  # of the pictures, the others are generated
VIVID = 0.5  # of the pictures
NEAR, MATCH, FOOL = 10.0, 1.0, 0.05  # the weights of the three losses
CRITIC_RATE = 4e-4


def draw(rng: np.random.Generator, bank: NDArray[np.uint8], choices: Sequence[tuple[int, float]] = SIDES) -> Tensor:
    """A batch (n,4,s,s): pictures in [0,1], and in the last channel the holes."""
    sides, shares = zip(*choices, strict=True)
    side = int(rng.choice(sides, p=shares))
    made = []
    for _ in range(PIXELS // side**2):
        if rng.random() < PHOTOGRAPHS:
            crop = pictures.photograph(rng, side)
        else:
            top, left = rng.integers(0, BANK_SIZE - side + 1, 2)
            crop = np.rot90(bank[rng.integers(len(bank)), top : top + side, left : left + side], int(rng.integers(4)))
        if rng.random() < VIVID:
            crop = vivid(rng, crop)
        made.append(np.dstack([crop, np.uint8(hole(rng, side)) * np.uint8(255)]))
    values = torch.from_numpy(np.stack(made))
    return values.permute(0, 3, 1, 2).float().div(255)


def vivid(rng: np.random.Generator, picture: pictures.Picture) -> pictures.Picture:
    """Colours and contrast driven up to where they clip: photographs hold few pure colours, the world holds many."""
    values = picture.astype(np.float32) / 255
    grey = values.mean(-1, keepdims=True)
    values = grey + (values - grey) * np.exp(rng.uniform(np.log(1.5), np.log(12)))
    values = 0.5 + (values - 0.5) * rng.uniform(0.8, 2) + rng.normal(0, 0.15, 3)
    return pictures.to_picture(values)


def train_stem(run: Run, stem: nn.Module, teacher: Encodes, bank: NDArray[np.uint8]) -> None:
    """The teacher's latents; half of each batch is perturbed by a few steps against the teacher, whose reaction to that
    is learnt exaggerated."""
    attackable = Called(teacher.encode)
    for batch, rng in run.batches(lambda rng: draw(rng, bank, STEM_SIDES)):
        x = batch[:, :3].contiguous(memory_format=torch.channels_last)
        part = len(x) // 2
        clean, x = x[:part], torch.cat([perturb(attackable, x[:part], rng), x[part:]])
        with autocast(x):
            with torch.no_grad():
                wanted = teacher.encode(x).float()
                wanted[:part] += OVERREACTION * (wanted[:part] - teacher.encode(clean).float())
            made = stem(x * 2 - 1).float()
        error = (made - wanted).square().mean((1, 2, 3)) / (wanted.square().mean((1, 2, 3)) + 0.05)
        run.update(error.mean())


def train(run: Run, network: nn.Module, judge: Critic, rival: torch.optim.Optimizer, bank: NDArray[np.uint8]) -> None:
    network.train()
    for batch, _ in run.batches(lambda rng: draw(rng, bank)):
        x, mask = batch[:, :3].contiguous(memory_format=torch.channels_last), batch[:, 3:]
        with autocast(x):
            made = network(x, mask)
            real = judge(x)
            false = judge(made.detach())
        rival.zero_grad()
        critic.critic_loss(real[-1].float(), false[-1].float(), mask).backward()
        rival.step()
        judge.requires_grad_(False)
        with autocast(x):
            false = judge(made)
        near = ((made.float() - x).abs() * mask).sum() / (3 * mask.sum())
        match = critic.feature_matching([each.detach() for each in real[:-1]], false[:-1])
        run.update(NEAR * near + MATCH * match + FOOL * critic.fooling(false[-1].float(), mask))
        judge.requires_grad_(True)


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    """As TorchScript: any size, no class of this project needed to read it."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch calls TorchScript deprecated; it is what inpainters are passed around as
        return torch.jit.script(network.eval())


def save(name: str, work: Path, out: Path) -> None:
    """The averaged weights, in half precision (half the bytes; loaded as float32)."""
    network = NETWORKS[name]()
    network.load_state_dict(torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["average"])
    scripted(network.half()).save(str(out))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "save"))
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("--work", type=Path, required=True, help="folder for the picture bank and checkpoints")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--pictures", type=int, default=6000, help="generated pictures in the bank")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="the file to write")
    options = parser.parse_args(arguments)
    if options.stage == "save":
        save(options.network, options.work, options.out)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.manual_seed(0)
    network = NETWORKS[options.network]().to(device).to(memory_format=torch.channels_last)
    bank = open_bank(options.work / "pictures.npy", options.pictures)
    path = options.work / f"{options.network}.pt"
    if options.network == "stem":
        teacher = Pool(load_models(None), device).get(DEFAULT_MODEL)
        train_stem(Run(network, path, options.steps, device), network, teacher, bank)
        return
    trained = torch.load(options.work / "stem.pt", map_location=device, weights_only=True)["average"]
    stem = network.stem
    assert isinstance(stem, Stem)
    stem.load_state_dict(trained)
    stem.requires_grad_(False)
    judge = Critic().to(device).to(memory_format=torch.channels_last)
    rival = torch.optim.AdamW(judge.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.99))
    others: dict[str, nn.Module | torch.optim.Optimizer] = {"critic": judge, "critic's optimizer": rival}
    train(Run(network, path, options.steps, device, others), network, judge, rival, bank)


if __name__ == "__main__":
    main(sys.argv[1:])
