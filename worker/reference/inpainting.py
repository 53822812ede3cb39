"""Measures inpainters on photographs that they never saw, beside OpenCV's; the model cards' figures.

    python -m worker.reference.inpainting --images DIR [--model NAME ...] [--size 256] [--hole 64] [--count 12]

What counts is the hole alone. Telea's fast marching (2004) and Navier-Stokes (Bertalmio et al. 2001) take radius 5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from service.contracts.catalog import load_models
from worker.bench.output import table
from worker.bench.pictures import load_crops
from worker.bench.protection import centred
from worker.bench.regions import psnr, ssim
from worker.editing import edit
from worker.models.pool import Pool
from worker.process import prepare

RADIUS = 5
CLASSICAL = {"Telea": cv2.INPAINT_TELEA, "Navier-Stokes": cv2.INPAINT_NS}


def classical(x: Tensor, mask: Tensor, kind: int) -> Tensor:
    """OpenCV's filling of pictures (N,3,H,W) in [0,1], in 8 bits."""
    hole = (mask[0, 0] > 0).to(torch.uint8).numpy() * 255
    pictures = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    made = np.stack([cv2.inpaint(np.ascontiguousarray(picture), hole, RADIUS, kind) for picture in pictures])
    return torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {error:.{digits}f}"


def measure(x: Tensor, mask: Tensor, inpainters: Mapping[str, Any]) -> list[list[object]]:
    """The table: a row for each of OpenCV's, then for each inpainter, of pictures (N,3,H,W) in [0,1] and one mask
    (1,1,H,W) for all."""
    filled = {name: classical(x, mask, kind) for name, kind in CLASSICAL.items()}
    filled |= {name: edit(x, mask, "", model) for name, model in inpainters.items()}
    rows: list[list[object]] = [["inpainter", "PSNR in the hole, dB", "SSIM in the hole"]]
    for name, made in filled.items():
        made = made * mask + x * (1 - mask)  # SSIM's windows reach beyond the hole
        rows.append([name, spread(psnr(made, x, mask), 2), spread(ssim(made, x, mask), 3)])
    return rows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--model", nargs="+", default=["reference-lama", "reference-mat"], metavar="NAME")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="side of the centre crops")
    parser.add_argument("--hole", type=int, default=64, help="side of the centred hole")
    options = parser.parse_args(arguments)
    if not 0 < options.hole <= options.size:
        parser.error(f"--hole: {options.hole} is not between 1 and --size, {options.size}")
    prepare()
    x, mask = load_crops(options.images, options.count, options.size), centred(options.size, options.hole)
    pool = Pool(load_models(None), torch.device("cpu"))
    rows = measure(x, mask, {name: pool.get(name) for name in options.model})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
