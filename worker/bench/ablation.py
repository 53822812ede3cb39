"""`immunize ablate backdoor`: the run-time backdoor's Tables 2 and 3 and its appendices, on one model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from service.contracts.catalog import Loss
from worker.attacks.backdoor import LOSSES, MEASURED
from worker.bench.backdoor import editors, subject
from worker.bench.output import circumstances, say, sheet, table, words
from worker.bench.perceptual import Perceptual
from worker.bench.protection import REGIONS, Score, protect, regions, score
from worker.core.trigger import expanded, incomplete, without
from worker.editing import edit
from worker.files import destination
from worker.images import to_picture, to_tensor

PARTS = ("losses", "epsilon", "transforms", "rounds")
EPSILONS = (2, 3, 6, 13)  # of Table 3
ROUNDS = 4
CHOSEN: Mapping[str, tuple[Loss, ...]] = {
    "implant": LOSSES[:1],
    "implant, incomplete": LOSSES[:2],
    "implant, incomplete, hide": LOSSES,
    "implant, hide": (LOSSES[0], LOSSES[2]),
}


@dataclass(frozen=True)
class Transform:
    """What happens to a published picture. `moves`: whether a region moves with it."""

    apply: Callable[[Image.Image], Image.Image]
    moves: bool = True


def doubled(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.BICUBIC)


TRANSFORMS: Mapping[str, Transform] = {  # of appendix G
    "brightness x1.5": Transform(lambda picture: ImageEnhance.Brightness(picture).enhance(1.5), moves=False),
    "scale x2": Transform(doubled),
    "blur 3": Transform(lambda picture: picture.filter(ImageFilter.GaussianBlur(3)), moves=False),
    "rotation 90": Transform(lambda picture: picture.transpose(Image.Transpose.ROTATE_90)),
    "flip": Transform(ImageOps.mirror),
}


@dataclass(frozen=True)
class Row:
    part: str
    what: str
    scores: Mapping[str, Score]  # by region


def ablate_backdoor(options: argparse.Namespace) -> None:
    """Measure what was asked for, and print tables or JSON. Progress goes to stderr."""
    parts = words("--parts", options.parts, PARTS)
    x, trigger, device = subject(options)
    with destination(options.sheet):
        model = editors([options.model], device)[options.model]
        study = Study(options, x, trigger, model)
        about = circumstances(
            device,
            "float32",
            model=options.model,
            pictures=f"{len(x)} centre crops {x.shape[-1]}x{x.shape[-2]}",
            trigger=f"{options.trigger}x{options.trigger}",
            preset=options.preset,
            epsilon=options.epsilon,
            target=options.target,
        )
        rows = [row for part in parts for row in study.rows(part)]
        if options.sheet:
            sheet(study.columns, options.sheet)
    if options.json:
        print(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    for part in parts:
        print("\n".join(["", *_table([row for row in rows if row.part == part])]))
    print("\n".join(study.perceptual.missing()))


class Study:
    """One model and its pictures; `columns` are the pictures of the contact sheet, trigger edits all."""

    def __init__(self, options: argparse.Namespace, x: Tensor, trigger: Tensor, model: Any) -> None:
        self._options, self._x, self._trigger, self._model = options, x, trigger, model
        self.perceptual, self.columns = Perceptual(), [x]
        self._immunized: dict[tuple[tuple[Loss, ...], float], Tensor] = {}

    def rows(self, part: str) -> Iterator[Row]:
        found: Mapping[str, Callable[[], Iterator[Row]]] = {
            "losses": self._by_losses,
            "epsilon": self._by_epsilon,
            "transforms": self._by_transform,
            "rounds": self._by_round,
        }
        return found[part]()

    def _by_losses(self) -> Iterator[Row]:
        yield self._row("losses", "benign", self._x)
        for name, losses in CHOSEN.items():
            yield self._row("losses", name, self._pictures(losses=losses))

    def _by_epsilon(self) -> Iterator[Row]:
        yield self._row("epsilon", "benign", self._x)
        for epsilon in EPSILONS:
            yield self._row("epsilon", f"{epsilon}/255", self._pictures(epsilon=epsilon))

    def _by_transform(self) -> Iterator[Row]:
        for name, transform in TRANSFORMS.items():
            trigger = _applied(transform, self._trigger) if transform.moves else self._trigger
            x = _applied(transform, self._x)
            yield self._row("transforms", f"{name}, benign", x, x, trigger)
            yield self._row("transforms", f"{name}, immunized", _applied(transform, self._pictures()), x, trigger)

    def _by_round(self) -> Iterator[Row]:
        """Each round another part of the surroundings is edited and the result published; then the trigger is."""
        whole = expanded(self._trigger)
        for name, pictures in (("benign", self._x), ("immunized", self._pictures())):
            for number in range(ROUNDS):
                yield self._row("rounds", f"{name}, after {number} edits elsewhere", pictures)
                mask = without(incomplete(whole, MEASURED[-1] + 1 + number, self._trigger), self._trigger)
                painted = edit(pictures, mask, "", self._model, seed=number)
                pictures = ((pictures * (1 - mask) + painted * mask).clamp(0, 1) * 255).round() / 255

    def _pictures(self, losses: tuple[Loss, ...] = LOSSES, epsilon: float | None = None) -> Tensor:
        """Immunized, each kind made once."""
        size = self._options.epsilon if epsilon is None else epsilon
        if (losses, size) not in self._immunized:
            say(f"{', '.join(losses)} within {size:g}/255")
            self._immunized[losses, size] = protect(
                self._x,
                self._trigger,
                self._model,
                preset=self._options.preset,
                epsilon=size,
                steps=self._options.steps,
                losses=losses,
                target=self._options.target,
            ).images
        return self._immunized[losses, size]

    def _row(
        self, part: str, what: str, pictures: Tensor, x: Tensor | None = None, trigger: Tensor | None = None
    ) -> Row:
        x, trigger = self._x if x is None else x, self._trigger if trigger is None else trigger
        scores = {}
        for region, masks in regions(trigger).items():
            scores[region], made = score(pictures, x, masks, self._model, self.perceptual)
            if region == "trigger" and made.shape == self._x.shape:
                self.columns.append(made)
        return Row(part, what, scores)


def _applied(transform: Transform, x: Tensor) -> Tensor:
    """Pictures (N,3,H,W), or a mask (1,1,H,W), after the transformation of each, in 8 bits."""
    if x.shape[1] == 1:
        made = to_tensor(transform.apply(to_picture(x.expand(-1, 3, -1, -1))).convert("L"))
        return (made > 0.5).to(x)
    return torch.cat([to_tensor(transform.apply(to_picture(one))) for one in x.split(1)]).to(x)


def _table(rows: list[Row]) -> list[str]:
    head = [f"{metric} {region}" for metric in ("SSIM", "PSNR") for region in REGIONS]
    perceptual = [f"{metric} trigger" for metric in ("LPIPS", "CLIP-FID")]
    lines: list[list[object]] = [[rows[0].part if rows else "", *head, *perceptual]]
    for row in rows:
        means = [row.scores[region].mean() for region in REGIONS]
        shown = [
            "–" if v is None else f"{v:.3f}" for v in (row.scores["trigger"].lpips, row.scores["trigger"].clip_fid)
        ]
        lines.append([row.what, *(ssim for ssim, _ in means), *(f"{psnr:.2f}" for _, psnr in means), *shown])
    return table(lines)
