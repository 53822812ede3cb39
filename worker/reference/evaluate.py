"""Measures the reference autoencoder against its teacher on photographs it never saw; the model card's figures.

    python -m worker.reference.evaluate --teacher FILE.py:NAME --images DIR [--work DIR] [--size 256]

Without --work it is the shipped folder that is measured, with --work the averaged weights of a training under way.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from service.contracts.catalog import DEFAULT_MODEL, load_models
from worker.attacks.encoder import EncoderAttack
from worker.bench.pictures import load_crops
from worker.core.budget import Linf
from worker.immunization import immunize
from worker.models.abilities import Encodes
from worker.models.external import load_python
from worker.models.latent import LatentModel
from worker.models.pool import Pool
from worker.models.tiny import TinyAutoencoder
from worker.process import prepare
from worker.recipes import FAST, PHOTOGUARD
from worker.reference.autoencoder import build

BUDGET = Linf(8 / 255)


def relative_error(student: Encodes, teacher: Encodes, x: Tensor) -> float:
    """|student - teacher|² over |teacher|², both summed over all pictures."""
    with torch.no_grad():
        wanted = teacher.encode(x)
        return float((student.encode(x) - wanted).square().sum() / wanted.square().sum())


def reconstruction_db(model: TinyAutoencoder | LatentModel, x: Tensor) -> float:
    """Mean over the pictures of the PSNR of what comes back through encoder and decoder, in dB."""
    with torch.no_grad():
        made = model.decode(model.encode(x)).clamp(0, 1)
    errors = (made - x).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def left_over(victim: Encodes, x: Tensor, x_adv: Tensor) -> float:
    """Mean loss ratio, perturbed over original, of the encoder attack to gray."""
    objective = EncoderAttack(victim).objective(x)
    with torch.no_grad():
        return float((objective.loss(x_adv) / objective.loss(x)).mean())


def evaluate(student: Encodes, teacher: Encodes, x: Tensor) -> dict[str, float]:
    """Every figure of the card that needs the encoders alone."""
    photoguard = replace(PHOTOGUARD, distance="squared")
    theirs = immunize(x, attack=EncoderAttack(teacher), budget=BUDGET, steps=200, recipe=photoguard).images
    ours = immunize(x, attack=EncoderAttack(student), budget=BUDGET, steps=200, recipe=photoguard).images
    fast = immunize(x, attack=EncoderAttack(student), budget=BUDGET, steps=20, recipe=FAST).images
    error = relative_error(student, teacher, x)
    with torch.no_grad():
        scale = float(student.encode(x).std())
    return {
        "relative squared latent error": error,
        "its root": math.sqrt(error),
        "standard deviation of the latents": scale,
        "photoguard@200 on the teacher, its own perturbation": left_over(teacher, x, theirs),
        "photoguard@200 on the student, its own perturbation": left_over(student, x, ours),
        "photoguard@200 of the student, seen by the teacher": left_over(teacher, x, ours),
        "fast@20 on the student, its own perturbation": left_over(student, x, fast),
        "fast@20 of the student, seen by the teacher": left_over(teacher, x, fast),
    }


def in_training(work: Path) -> TinyAutoencoder:
    """The averaged weights of a training's folder; a decoder that is not there yet stays untrained."""
    source = build()
    for name in ("encoder", "decoder"):
        if (work / f"{name}.pt").exists():
            state = torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)
            getattr(source, name).load_state_dict(state["average"])
    model = TinyAutoencoder(dict(source.config))
    model.load_state_dict(source.state_dict())
    return model.eval().requires_grad_(False)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="FILE.py:NAME of an encoder with encode(x)")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="side of the centre crops")
    parser.add_argument("--work", type=Path, help="measure a training under way")
    options = parser.parse_args(arguments)
    prepare()
    x = load_crops(options.images, options.count, options.size)
    device = torch.device("cpu")
    shipped = Pool(load_models(None), device)
    student = in_training(options.work) if options.work else shipped.get(DEFAULT_MODEL)
    figures = {"reconstruction, PSNR in dB": reconstruction_db(student, x)}
    figures |= evaluate(student, load_python(options.teacher), x)
    for name, value in figures.items():
        print(f"{name:<56}{value:8.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
