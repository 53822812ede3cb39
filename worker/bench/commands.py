"""`immunize bench` and `immunize ablate`. Imported by every `immunize` call: heavy imports stay inside functions."""

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

    backdoor = bench.add_parser("backdoor", help="edits of and around a protected region, by each model, and the cost")
    backdoor.add_argument(
        "--model",
        nargs="+",
        default=["reference-lama", "reference-mat", "reference-ldm"],
        metavar="NAME",
        help="models of the registry that edit (default: the reference ones)",
    )
    backdoor.add_argument("--architecture", metavar="NAME", help="big-lama: at full size, random weights (cost)")
    backdoor.add_argument("--parts", default="table,cost", help="of table, cost (default both)")
    _add_backdoor(backdoor)
    backdoor.set_defaults(run=_bench_backdoor)

    worker = bench.add_parser("worker", help="jobs through queue, store and worker, for several batch sizes")
    worker.add_argument("--encoder", metavar="FILE.py:NAME", help="anybody's encoder; the file is run")
    worker.add_argument("--architecture", metavar="NAME", help="sd15: its autoencoder at full size, random weights")
    worker.add_argument("--model", metavar="NAME", help="a model of the registry (default: the reference autoencoder)")
    worker.add_argument("--images", type=Path, metavar="DIR", help="default: photographs inside scikit-image")
    worker.add_argument("--jobs", type=int, default=16, help="default 16")
    worker.add_argument("--size", type=int, help="side of the centre crops (default 256; sd15: 512)")
    worker.add_argument("--steps", type=int, default=20, help="gradients a picture (default 20)")
    worker.add_argument("--batches", default="1,8", help="values of BATCH_MAX (default 1,8)")
    worker.add_argument("--device", default="auto")
    worker.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    worker.add_argument("--compile", action="store_true", help="torch.compile the encoder")
    worker.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    worker.set_defaults(run=_bench_worker)

    ablate = commands.add_parser("ablate", help="measure what each part of a method is for").add_subparsers(
        metavar="WHAT", required=True
    )
    ablated = ablate.add_parser("backdoor", help="its losses, budgets, transformed pictures, repeated edits")
    ablated.add_argument("--model", default="reference-lama", metavar="NAME", help="default reference-lama")
    ablated.add_argument(
        "--parts",
        default="losses,epsilon,transforms,rounds",
        help="of losses, epsilon, transforms, rounds (default all)",
    )
    _add_backdoor(ablated)
    ablated.set_defaults(run=_ablate_backdoor)


def _add_backdoor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="default: photographs inside scikit-image")
    parser.add_argument("--count", type=int, default=4, help="pictures at most, as one batch (default 4)")
    parser.add_argument("--size", type=int, default=256, help="side of the centre crops (default 256)")
    parser.add_argument("--trigger", type=int, default=64, help="side of the centred protected square (default 64)")
    parser.add_argument("--preset", default="fast", help="fast or paper (default fast)")
    parser.add_argument("--epsilon", type=float, default=6.0)
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--target", default="farthest", help="farthest, inverted, gray or noise (default farthest)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="pictures and their edits, as one picture")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")


def _bench_encoder(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.encoder import bench_encoder

    bench_encoder(options)


def _bench_diffusion(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.diffusion import bench_diffusion

    bench_diffusion(options)


def _bench_backdoor(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.backdoor import bench_backdoor

    bench_backdoor(options)


def _bench_worker(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.worker import bench_worker

    bench_worker(options)


def _ablate_backdoor(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.ablation import ablate_backdoor

    ablate_backdoor(options)
