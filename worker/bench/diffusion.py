"""`immunize bench diffusion`: presets of the diffusion attack side by side on one editor and the same pictures."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from service.contracts.catalog import METHODS, Preset
from service.contracts.errors import BadField
from worker.attacks.diffusion import DiffusionAttack
from worker.attacks.encoder import EncoderAttack
from worker.bench import displacement
from worker.bench.clock import now, peak
from worker.bench.output import SHEETS, circumstances, say, sheet, table, words
from worker.bench.pictures import load_crops
from worker.bench.subject import pick_editor
from worker.core.budget import Linf
from worker.files import destination
from worker.immunization import immunize
from worker.models.abilities import EditOptions
from worker.recipes import FAST, RECIPES, UNIFORM

PARTS = ("curves", "displacement")
SHARES = (4, 2, 1)  # a preset is run at its steps divided by these
SHARES_REPEATED = (10, 1)  # one that takes several gradients a step
PROMPTS = ("", "a red ball on sand")
SEEDS = (5, 6)
HOLE = 0.44  # of the side: the centred square that is edited
LEAST = 16  # side of a picture with such a square


@dataclass(frozen=True)
class Run:
    """One preset with so many steps. The loss is the same for all: the mean square of the finished edit from gray."""

    preset: str
    steps: int
    gradients: int
    passes: int  # of the denoiser, guided ones counted once though they see two batches
    seconds: float  # a picture
    loss_ratio: float  # of the clean picture's, mean over the pictures
    loss: float
    peak_memory_bytes: int  # of the device on a GPU; of the process so far on a CPU


def bench_diffusion(options: argparse.Namespace) -> None:
    """Measure what was asked for, and print tables or JSON. Progress goes to stderr."""
    parts = words("--parts", options.parts, PARTS)
    presets = words("--presets", options.presets, [preset.name for preset in METHODS["diffusion"].presets])
    if not 0 < options.epsilon <= 255:
        raise BadField(
            f"--epsilon: {options.epsilon:g} is not above 0 and at most 255 (in /255 units)", field="epsilon"
        )
    if options.count < 1 or options.share < 1:
        raise BadField("--count and --divide must be at least 1", field="count")
    if options.sheet and "displacement" not in parts:
        raise BadField("--sheet: the edits that it shows are those of the part displacement", field="sheet")
    if options.sheet and options.sheet.suffix.lower() not in SHEETS:
        raise BadField(f"--sheet: {options.sheet.name} must end in {', '.join(SHEETS)}", field="sheet")
    with destination(options.sheet):
        _bench(options, parts, presets)


def _bench(options: argparse.Namespace, parts: Sequence[str], presets: Sequence[str]) -> None:
    name, model, device = pick_editor(options)
    size = options.size or getattr(model, "size", None) or 512
    if size % getattr(model, "multiple", 8) or size < LEAST:
        raise BadField(
            f"--size: {size} does not divide by {getattr(model, 'multiple', 8)} or is below {LEAST}", field="size"
        )
    x = load_crops(options.images, options.count, size, whole=True).to(device)
    mask = centred(size).to(device)
    source = options.images.name if options.images else "scikit-image's photographs"
    about = circumstances(
        device,
        options.dtype,
        editor=name,
        pictures=f"{len(x)} centre squares of {source} at {size}x{size}",
        epsilon=options.epsilon,
    )
    found: dict[str, object] = {"about": about}
    text = ["  ".join(f"{key} {value}" for key, value in about.items())]
    immunized: dict[str, Tensor] = {}
    if "curves" in parts:
        runs = []
        for preset in (METHODS["diffusion"].preset(named) for named in presets):
            shares = SHARES if (preset.repeats or 1) == 1 else SHARES_REPEATED
            for share in shares if options.share == 1 else (options.share,):
                run, images = measure(preset, max(1, preset.steps // share), model, x, mask, options.epsilon)
                runs.append(run)
            immunized[f"diffusion {preset.name}"] = images
        found["curves"] = [asdict(run) for run in runs]
        text += _curves(runs)
    if "displacement" in parts:
        budget = Linf(options.epsilon / 255)
        for named in () if immunized else presets:
            full = METHODS["diffusion"].preset(named)
            steps = max(1, full.steps // options.share)
            immunized[f"diffusion {named}"] = measure(full, steps, model, x, mask, options.epsilon)[1]
        encoder = EncoderAttack(model)
        controls = {
            "noise": immunize(x, attack=encoder, budget=budget, steps=0, mask=mask, recipe=UNIFORM).images,
            "encoder fast": immunize(x, attack=encoder, budget=budget, steps=20, mask=mask, recipe=FAST).images,
        }
        rows, made = displacement.measure(controls | immunized, x, mask, model, PROMPTS, SEEDS, say)
        found["displacement"] = [asdict(row) for row in rows]
        text += _displacement(rows)
        if options.sheet:
            shown = [edits[number * len(SEEDS)] for number in range(len(PROMPTS)) for edits in made.values()]
            sheet([x, *shown], options.sheet)
    print(json.dumps(found, indent=2) if options.json else "\n".join(text))


def centred(size: int) -> Tensor:
    """The region (1,1,size,size) that is edited."""
    side = round(size * HOLE / 8) * 8
    first = (size - side) // 2
    mask = torch.zeros(1, 1, size, size)
    mask[..., first : first + side, first : first + side] = 1
    return mask


def measure(preset: Preset, steps: int, model: Any, x: Tensor, mask: Tensor, epsilon: float) -> tuple[Run, Tensor]:
    """One run of a preset in L-infinity, and the immunized images. epsilon in /255."""
    say(f"{preset.name}, {steps} steps")
    recipe = RECIPES["diffusion", preset.name]
    how = EditOptions(
        steps=preset.denoising_steps, guidance=recipe.guidance, eta=recipe.eta, gradient_steps=preset.gradient_steps
    )
    attack = DiffusionAttack(
        model,
        options=how,
        kind=recipe.kind,
        repeats=preset.repeats or 1,
        distance=recipe.distance,
        masks=preset.masks or "given",
    )
    common = DiffusionAttack(model, options=EditOptions(steps=4, guidance=7.5, eta=1.0)).objective(x, mask)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
    with torch.no_grad():
        first = common.loss(x)
        began = _spent(model, x)
        attack.objective(x, mask).loss(x)  # immunize looks at it once before its first step, which is no step's cost
        looked, ended = _spent(model, x), _spent(model, x)

    def on_step(step: int, steps: int, _: Tensor) -> None:
        nonlocal ended
        if step == steps:
            ended = _spent(model, x)

    outcome = immunize(
        x, attack=attack, budget=Linf(epsilon / 255), steps=steps, mask=mask, recipe=recipe, on_step=on_step
    )
    with torch.no_grad():
        last = common.loss(outcome.images)
    passes, seconds = (end - 2 * look + begin for end, look, begin in zip(ended, looked, began, strict=True))
    run = Run(
        preset=preset.name,
        steps=steps,
        gradients=int(outcome.gradient_evaluations[0]),
        passes=int(passes),
        seconds=seconds / len(x),
        loss_ratio=float((last / first).mean()),
        loss=float(last.mean()),
        peak_memory_bytes=peak(x),
    )
    return run, outcome.images


def _curves(runs: Sequence[Run]) -> list[str]:
    rows: list[list[object]] = [
        ["preset", "steps", "gradients", "UNet passes", "seconds a picture", "loss", "of the clean", "peak memory, MiB"]
    ]
    for run in runs:
        memory = run.peak_memory_bytes // 2**20
        rows.append(
            [
                run.preset,
                run.steps,
                run.gradients,
                run.passes,
                f"{run.seconds:.2f}",
                f"{run.loss:.5f}",
                run.loss_ratio,
                memory,
            ]
        )
    return ["", *table(rows)]


def _displacement(rows: Sequence[displacement.Displacement]) -> list[str]:
    lines: list[list[object]] = [
        ["SSIM of the edit against the clean edit", "edited region", "whole", "PSNR whole, dB"]
    ]
    for row in rows:
        cells = ["{:.3f} ± {:.3f}".format(*row.summary(values)) for values in (row.region, row.whole)]
        lines.append([row.attack, *cells, f"{statistics.fmean(row.psnr_db):.1f}"])
    return ["", *table(lines)]


def _spent(model: Any, x: Tensor) -> tuple[float, float]:
    """The denoiser's passes and the seconds so far."""
    return getattr(model, "passes", 0), now(x)
