"""What the reference editor is trained on: pictures, masks and captions, and the bank of latents made of them."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from worker.models.abilities import Encodes
from worker.reference import pictures
from worker.reference.pictures import Picture, Plane, one_over_f
from worker.reference.scenes import scene, surface

SIZE = 128
CELL = 8  # pixels in a latent's side
BLANK = 0.5  # what the editor's encoder sees inside the hole

PHOTO_WORDS = ("a photo", "a photograph", "a picture", "an image", "background", "")
OTHER_WORDS = ("abstract shapes", "a pattern", "abstract colours", "")


@dataclass(frozen=True)
class Sample:
    picture: Picture  # (SIZE,SIZE,3)
    hole: NDArray[np.bool_]  # (SIZE,SIZE), True where the editor paints
    caption: str


def sample(index: int) -> Sample:
    """Training sample number `index`: a scene seven times in ten, else a photograph or a generated texture."""
    rng = np.random.default_rng([5, index])
    kind = rng.random()
    if kind < 0.58:
        made = scene(rng, SIZE)
        hole = around(rng, made.coverage)
        short = (f"{made.colour} {made.thing}", f"a {made.thing} on {made.ground}", made.colour, made.thing)
        caption = made.caption if rng.random() < 0.8 else str(rng.choice(short))
        return Sample(made.picture, hole, _worded(rng, caption))
    if kind < 0.7:  # the hole shows the ground alone
        made = scene(rng, SIZE)
        hole = anywhere(rng)
        if (hole & (made.coverage > 0.05)).any():
            ground = pictures.to_picture(surface(rng, SIZE, made.ground))
            return Sample(ground, hole, _worded(rng, made.ground))
        return Sample(made.picture, hole, str(rng.choice([made.ground, f"empty {made.ground}", "", "background"])))
    if kind < 0.9:
        return Sample(pictures.photograph(rng, SIZE), anywhere(rng), str(rng.choice(PHOTO_WORDS)))
    return Sample(pictures.dead_leaves(rng, SIZE), anywhere(rng), str(rng.choice(OTHER_WORDS)))


def _worded(rng: np.random.Generator, caption: str) -> str:
    return str(rng.choice([caption, caption, f"a photo of {caption}", f"a picture of {caption}"]))


def around(rng: np.random.Generator, coverage: Plane) -> NDArray[np.bool_]:
    """A hole that holds the covered part: its box or ellipse with a margin, or the part itself, grown."""
    rows, columns = np.nonzero(coverage.max(1) > 0.05)[0], np.nonzero(coverage.max(0) > 0.05)[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    margins = rng.uniform(3, 14, 4)
    box = [left - margins[0], top - margins[1], right + margins[2], bottom + margins[3]]
    hole = Image.new("L", (SIZE, SIZE))
    kind = rng.random()
    if kind < 0.5:
        ImageDraw.Draw(hole).rectangle(box, fill=255)
    elif kind < 0.8:
        grow_x, grow_y = (box[2] - box[0]) * 0.12, (box[3] - box[1]) * 0.12
        ImageDraw.Draw(hole).ellipse([box[0] - grow_x, box[1] - grow_y, box[2] + grow_x, box[3] + grow_y], fill=255)
    else:
        grown = Image.fromarray(np.uint8(coverage > 0.05) * 255).filter(ImageFilter.GaussianBlur(rng.uniform(3, 6)))
        hole = grown.point(lambda value: 255 if value > 20 else 0)
    return np.asarray(hole) > 0


def anywhere(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A hole of any place: a box, an ellipse, a cloud, strokes, all but one of these, or everything."""
    kind = rng.random()
    hole = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(hole)
    if kind < 0.6:
        sides, middle = rng.uniform(24, 84, 2), rng.uniform(24, SIZE - 24, 2)
        box = [*(middle - sides / 2), *(middle + sides / 2)]
        (draw.rectangle if kind < 0.35 else draw.ellipse)(box, fill=255)
    elif kind < 0.8:
        field = one_over_f(rng, SIZE, SIZE, 1.8)
        hole = Image.fromarray(np.uint8(field > np.quantile(field, rng.uniform(0.55, 0.9))) * 255)
    elif kind < 0.97:
        for _ in range(rng.integers(1, 5)):
            points = rng.uniform(0, SIZE, (rng.integers(2, 6), 2))
            draw.line([tuple(p) for p in points.tolist()], fill=255, width=int(rng.integers(8, 28)), joint="curve")
    else:
        return np.ones((SIZE, SIZE), bool)
    inside = np.asarray(hole) > 0
    return ~inside if rng.random() < 0.15 else inside


class Bank:
    """Latents of samples, made once and read from a folder: pictures', blanked pictures', holes', captions."""

    def __init__(self, folder: Path) -> None:
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.blanked = np.load(folder / "blanked.npy", mmap_mode="r")
        self.holes = np.load(folder / "holes.npy", mmap_mode="r")
        self.captions: list[str] = json.loads((folder / "captions.json").read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return len(self.captions)


def make_bank(folder: Path, count: int, encoder: Encodes, device: torch.device, first: int = 0) -> Bank:
    """The bank of samples `first` to `first + count`, made if it is not there."""
    if (folder / "captions.json").exists():
        return Bank(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cells = SIZE // CELL
    files: dict[str, NDArray[np.float16]] = {}
    captions: list[str] = []
    with multiprocessing.get_context("spawn").Pool() as pool:
        waiting: list[Sample] = []
        for made in pool.imap(sample, range(first, first + count), chunksize=16):
            waiting.append(made)
            if len(waiting) < 64 and len(captions) + len(waiting) < count:
                continue
            x = torch.from_numpy(np.stack([s.picture for s in waiting])).to(device).permute(0, 3, 1, 2).float() / 255
            holes = torch.from_numpy(np.stack([s.hole for s in waiting])).to(device)[:, None]
            with torch.inference_mode():
                values = {"latents": encoder.encode(x), "blanked": encoder.encode(x.masked_fill(holes, BLANK))}
            values["holes"] = holes[..., ::CELL, ::CELL]  # the corner of each cell, as diffusers reduces a mask
            for name, value in values.items():
                if name not in files:
                    shape = (count, value.shape[1], cells, cells)
                    files[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)
                files[name][len(captions) : len(captions) + len(waiting)] = value.half().cpu().numpy()
            captions += [s.caption for s in waiting]
            waiting = []
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    return Bank(folder)
