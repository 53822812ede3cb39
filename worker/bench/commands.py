"""`immunize bench`. Imported by every `immunize` call, so heavy imports stay inside the functions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from worker.process import prepare


def register(commands: Any) -> None:
    """Add it to an argparse subparsers object."""
    bench = commands.add_parser("bench", help="measure").add_subparsers(metavar="WHAT", required=True)
    encoder = bench.add_parser("encoder", help="presets side by side on one encoder and the same pictures")
    encoder.add_argument("--encoder", metavar="FILE.py:NAME", help="anybody's encoder; the file is run")
    encoder.add_argument(
        "--architecture", metavar="NAME", help="sd15: its autoencoder at full size, random weights (speed)"
    )
    encoder.add_argument("--model", metavar="NAME", help="a model of the registry (default: the reference autoencoder)")
    encoder.add_argument("--images", type=Path, metavar="DIR", help="default: photographs inside scikit-image")
    encoder.add_argument("--count", type=int, default=4, help="pictures at most (default 4)")
    encoder.add_argument("--size", type=int, help="side of the centre crops (default 256; sd15: 512)")
    encoder.add_argument("--epsilon", type=float, default=8.0)
    encoder.add_argument("--batches", default="1,2,4", help="batch sizes for speed (default 1,2,4)")
    encoder.add_argument(
        "--parts", default="curves,speed,robustness", help="of curves, speed, robustness (default all)"
    )
    encoder.add_argument("--device", default="auto")
    encoder.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    encoder.add_argument("--compile", action="store_true", help="torch.compile the encoder")
    encoder.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    encoder.set_defaults(run=_bench_encoder)

    diffusion = bench.add_parser("diffusion", help="presets side by side on one editor and the same pictures")
    diffusion.add_argument(
        "--model", metavar="NAME", help="a model of the registry that edits (default: reference-ldm)"
    )
    diffusion.add_argument(
        "--architecture", metavar="NAME", help="sd15: its inpainting pipeline at full size, random weights"
    )
    diffusion.add_argument(
        "--keep", action="store_true", help="with --architecture: keep activations, not recompute them"
    )
    diffusion.add_argument("--images", type=Path, metavar="DIR", help="default: photographs inside scikit-image")
    diffusion.add_argument("--count", type=int, default=2, help="pictures at most, as one batch (default 2)")
    diffusion.add_argument("--size", type=int, help="side to which they are reduced (default: the model's; sd15: 512)")
    diffusion.add_argument("--epsilon", type=float, default=8.0)
    diffusion.add_argument(
        "--presets", default="fast,early", help="of fast, early, paper, photoguard (default fast,early)"
    )
    diffusion.add_argument(
        "--divide", dest="share", type=int, default=1, help="run this part of each preset's steps only"
    )
    diffusion.add_argument("--parts", default="curves,displacement", help="of curves, displacement (default both)")
    diffusion.add_argument("--sheet", type=Path, metavar="FILE", help="pictures and their edits, as one picture")
    diffusion.add_argument("--device", default="auto")
    diffusion.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    diffusion.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    diffusion.set_defaults(run=_bench_diffusion)


def _bench_encoder(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.encoder import bench_encoder

    bench_encoder(options)


def _bench_diffusion(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.diffusion import bench_diffusion

    bench_diffusion(options)
