"""Does the reference editor do what it is told? Measured in held-out scenes with a judge that never saw an edit.

    python -m worker.reference.obedience [--scenes 100] [--steps 20] [--guidance 4] [--sheet FILE]

In each scene the thing is masked and the prompt names another colour and another thing. The judge is a small classifier
of colours and things, trained here in a minute on scenes as the autoencoder reproduces them; what it scores on scenes
that it never saw is printed beside what the edits score, and chance is one in eight.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from service.contracts.catalog import load_models
from worker.editing import edit
from worker.models.abilities import EditOptions
from worker.models.pool import Pool, pick_device
from worker.process import prepare
from worker.reference.samples import SIZE, around
from worker.reference.scenes import ARTICLE, COLOURS, THINGS, Scene, scene

SEEN = 48  # side of what the judge sees
TRAINING, HELD_OUT, TESTED = 21, 22, 23  # seeds of the judge's scenes, of its test, of the edits
JUDGED = 3000  # scenes that the judge is trained on
ROUNDS = 600


@dataclass(frozen=True)
class Case:
    scene: Scene
    mask: Tensor  # (1,1,SIZE,SIZE)
    box: tuple[int, int, int, int]  # left, top, right, bottom around the mask
    colour: str  # that the prompt names
    thing: str

    @property
    def prompt(self) -> str:
        return f"{ARTICLE.get(self.colour, 'a')} {self.colour} {self.thing} on {self.scene.ground}"


def case(seed: int, index: int) -> Case:
    rng = np.random.default_rng([seed, index])
    made = scene(rng, SIZE)
    hole = around(rng, made.coverage)
    rows, columns = np.nonzero(hole.any(1))[0], np.nonzero(hole.any(0))[0]
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Case(
        scene=made,
        mask=torch.from_numpy(hole.astype(np.float32))[None, None],
        box=box,
        colour=str(rng.choice([name for name in COLOURS if name != made.colour])),
        thing=str(rng.choice([name for name in THINGS if name != made.thing])),
    )


def seen(picture: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The part of a picture (1,3,H,W) in the box, as the judge sees it."""
    left, top, right, bottom = box
    return F.interpolate(picture[..., top:bottom, left:right], (SEEN, SEEN), mode="bilinear", antialias=True)


def pixels(made: Scene) -> Tensor:
    return torch.from_numpy(made.picture.copy()).permute(2, 0, 1)[None].float() / 255


class Judge(nn.Module):
    """Logits (N,16) of the colours, then the things."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        side = SEEN // 2 ** (len(widths) - 1)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, len(COLOURS) + len(THINGS)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x * 2 - 1)
        return logits


def examples(model: Any, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """What the judge sees (n,3,48,48) of scenes that went through the autoencoder, and what they show (n,2)."""
    views, labels = [], []
    for index in range(count):
        one = case(seed, index)
        with torch.no_grad():
            made = model.decode(model.encode(pixels(one.scene)))
        views.append(seen(made, one.box))
        labels.append([list(COLOURS).index(one.scene.colour), THINGS.index(one.scene.thing)])
    return torch.cat(views), torch.tensor(labels)


def train_judge(views: Tensor, labels: Tensor) -> Judge:
    torch.manual_seed(0)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05)
    for step in range(ROUNDS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / ROUNDS)
        pick = torch.randint(len(views), (64,))
        shown = views[pick]
        if step % 2:
            shown = shown + torch.randn(len(pick), 1, 1, 1) * 0.05 + torch.randn_like(shown) * 0.02
        logits = judge(shown)
        colours, things = logits.split([len(COLOURS), len(THINGS)], 1)
        loss = F.cross_entropy(colours, labels[pick, 0]) + F.cross_entropy(things, labels[pick, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


def score(judge: Judge, views: Tensor, labels: Tensor) -> dict[str, float]:
    """Shares of right colours, right things, and both."""
    with torch.no_grad():
        colours, things = judge(views).split([len(COLOURS), len(THINGS)], 1)
    right = torch.stack([colours.argmax(1) == labels[:, 0], things.argmax(1) == labels[:, 1]], 1)
    return {
        "colour": float(right[:, 0].float().mean()),
        "thing": float(right[:, 1].float().mean()),
        "both": float(right.all(1).float().mean()),
    }


def edited(model: Any, cases: Sequence[Case], options: EditOptions) -> Tensor:
    """(n,3,SIZE,SIZE): each scene as the editor answers its prompt."""
    made = [
        edit(pixels(one.scene), one.mask, one.prompt, model, seed=index, options=options)
        for index, one in enumerate(cases)
    ]
    return torch.cat(made)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference-ldm")
    parser.add_argument("--models-file", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--sheet", type=Path, help="the first 32 scenes and their edits, as one picture")
    options = parser.parse_args(arguments)
    prepare()
    model = Pool(load_models(options.models_file), pick_device("cpu")).get(options.model)
    judge = train_judge(*examples(model, TRAINING, JUDGED))
    cases = [case(TESTED, index) for index in range(options.scenes)]
    made = edited(model, cases, EditOptions(steps=options.steps, guidance=options.guidance))
    wanted = torch.tensor([[list(COLOURS).index(one.colour), THINGS.index(one.thing)] for one in cases])
    views = torch.cat([seen(made[index : index + 1], one.box) for index, one in enumerate(cases)])
    lines = {
        "the judge on unseen scenes": score(judge, *examples(model, HELD_OUT, 300)),
        "edits against their prompts": score(judge, views, wanted),
    }
    for name, shares in lines.items():
        print(f"{name:<32}" + "  ".join(f"{what} {share:.0%}" for what, share in shares.items()))
    if options.sheet:
        rows = [torch.cat([pixels(one.scene)[0], made[index]], 2) for index, one in enumerate(cases[:32])]
        grid = torch.cat([torch.cat(rows[first::4], 1) for first in range(4)], 2)
        Image.fromarray((grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(options.sheet)


if __name__ == "__main__":
    main(sys.argv[1:])
