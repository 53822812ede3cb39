"""`immunize bench encoder`: presets side by side on one encoder and the same pictures, in one run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from service.contracts.errors import BadField
from worker.bench import curves, robustness, speed
from worker.bench.output import circumstances, say, table, told, words
from worker.bench.pictures import load_crops
from worker.bench.subject import pick_subject

PARTS = ("curves", "speed", "robustness")


def bench_encoder(options: argparse.Namespace) -> None:
    """Measure what was asked for, and print a table or JSON. Progress goes to stderr."""
    parts = words("--parts", options.parts, PARTS)
    batches = _counts(options.batches)
    if not 0 < options.epsilon <= 255:
        raise BadField(
            f"--epsilon: {options.epsilon:g} is not above 0 and at most 255 (in /255 units)", field="epsilon"
        )
    if options.count < 1 or (options.size is not None and options.size < 16):
        raise BadField("--count must be at least 1 and --size at least 16", field="size")
    subject = pick_subject(options)
    size = options.size or subject.size
    x = load_crops(options.images, options.count, size).to(subject.device)
    source = options.images.name if options.images else "scikit-image's photographs"
    about = circumstances(
        subject.device, options.dtype, encoder=subject.name, pictures=told(x, source), epsilon=options.epsilon
    )
    found: dict[str, object] = {"about": about}
    text = ["  ".join(f"{name} {value}" for name, value in about.items())]
    if "curves" in parts:
        measured = curves.measure(subject.encoder, x, options.epsilon, say)
        found["curves"] = asdict(measured)
        text += _curves(measured)
    if "speed" in parts:
        say("speed")
        speeds = speed.measure(subject.encoder, x, options.epsilon, batches)
        found["speed"] = [asdict(row) for row in speeds]
        text += _speed(speeds)
    if "robustness" in parts:
        rows = robustness.measure(subject.encoder, x, options.epsilon, say)
        found["robustness"] = [asdict(row) | {"kept": {n: row.kept(n) for n in row.ratios}} for row in rows]
        text += _robustness(rows)
    print(json.dumps(found, indent=2) if options.json else "\n".join(text))


def _curves(measured: curves.Curves) -> list[str]:
    rows: list[list[object]] = [["loss ratio after ... gradients", *curves.CHECKPOINTS, "fast gets there with"]]
    for curve in measured.curves:
        needed = measured.needed.get(curve.name, "") if curve.name != "fast" else ""
        most = curves.CHECKPOINTS[-1]
        rows.append([curve.name, *curve.ratios.values(), f"more than {most}" if needed is None else needed])
    return ["", *table(rows)]


def _speed(speeds: Sequence[speed.Speed]) -> list[str]:
    head = ["batch", "bare fwd+bwd, ms", "fast, ms", "photoguard, ms", "fast/bare", "fast, images/s"]
    rows: list[list[object]] = [[*head, "photoguard, images/s", "peak memory, MiB"]]
    for row in speeds:
        milliseconds = [f"{s * 1000:.1f}" for s in (row.bare_seconds, row.fast_seconds, row.photoguard_seconds)]
        rates = [f"{r:.3g}" for r in (row.fast_images_per_second, row.photoguard_images_per_second)]
        rows.append([row.batch, *milliseconds, row.overhead, *rates, row.peak_memory_bytes // 2**20])
    return ["", *table(rows)]


def _robustness(rows: Sequence[robustness.Row]) -> list[str]:
    chains = ("JPEG 75, half", "JPEG 75, half, back")
    lines: list[list[object]] = [["loss ratio after", *robustness.TRANSFORMS, *(f"kept: {name}" for name in chains)]]
    for row in rows:
        kept = [row.kept(name) for name in chains]
        shares = ["-" if share is None else f"{share:.0%}" for share in kept]
        lines.append([f"{row.preset} ({row.steps})", *row.ratios.values(), *shares])
    return ["", *table(lines)]


def _counts(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise BadField(f"--batches: {text!r} is not a list of whole numbers above 0, like 1,2,4", field="batches")
    return [int(word) for word in words]
