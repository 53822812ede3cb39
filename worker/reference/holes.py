"""Holes that inpainters are trained to fill: boxes, ellipses, clouds and strokes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from worker.reference.pictures import one_over_f


def hole(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """(size,size), True where to paint: between a fiftieth and half of the picture, of any place and shape."""
    while True:
        kind = rng.random()
        canvas = Image.new("L", (size, size))
        draw = ImageDraw.Draw(canvas)
        if kind < 0.6:
            for _ in range(1 if rng.random() < 0.7 else 2):
                sides, middle = rng.uniform(0.15, 0.55, 2) * size, rng.uniform(0.1, 0.9, 2) * size
                box = [*(middle - sides / 2), *(middle + sides / 2)]
                (draw.rectangle if kind < 0.45 else draw.ellipse)(box, fill=255)
        elif kind < 0.7:
            field = one_over_f(rng, size, size, 1.8)
            canvas = Image.fromarray(np.uint8(field > np.quantile(field, rng.uniform(0.6, 0.9))) * 255)
        else:
            for _ in range(rng.integers(1, 5)):
                points = rng.uniform(0, size, (rng.integers(2, 6), 2))
                width = int(rng.uniform(0.05, 0.22) * size)
                draw.line([tuple(p) for p in points.tolist()], fill=255, width=width, joint="curve")
        found = np.asarray(canvas) > 0
        if 0.02 < found.mean() < 0.5:
            return found
