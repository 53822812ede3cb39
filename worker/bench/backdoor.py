"""`immunize bench backdoor`: Table 1 of the run-time backdoor, each model's pictures edited by all; and the cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from service.contracts.catalog import METHODS, load_models
from service.contracts.errors import BadField
from service.contracts.settings import load_settings
from worker.bench.architectures import big_lama
from worker.bench.clock import now
from worker.bench.cost import Cost, cost_of, cost_table
from worker.bench.output import SHEETS, circumstances, say, sheet, table, words
from worker.bench.perceptual import Perceptual
from worker.bench.pictures import load_crops
from worker.bench.protection import REGIONS, Score, centred, protect, regions, score
from worker.files import destination
from worker.models.abilities import Edits
from worker.models.pool import Pool, pick_device

PARTS = ("table", "cost")


@dataclass(frozen=True)
class Row:
    """Edits by `editor` of pictures that were immunized against `victim`, and of the benign ones."""

    victim: str
    editor: str
    region: str
    benign: Score
    immunized: Score


def bench_backdoor(options: argparse.Namespace) -> None:
    """Measure what was asked for, and print tables or JSON. Progress goes to stderr."""
    parts = words("--parts", options.parts, PARTS)
    if options.sheet and "table" not in parts:
        raise BadField("--sheet: the edits that it shows are those of the part table", field="sheet")
    x, trigger, device = subject(options)
    with destination(options.sheet):
        models = architecture(options, device) or editors(options.model, device)
        perceptual = Perceptual()
        about = circumstances(
            device,
            "float32",
            pictures=f"{len(x)} centre crops {x.shape[-1]}x{x.shape[-2]}",
            trigger=f"{options.trigger}x{options.trigger}",
            preset=options.preset,
            epsilon=options.epsilon,
            target=options.target,
        )
        found: dict[str, object] = {"about": about}
        text = ["  ".join(f"{key} {value}" for key, value in about.items())]
        costs, rows, columns = _measure(options, x, trigger, models, perceptual, parts)
        if "table" in parts:
            found["table"] = [asdict(row) for row in rows]
            text += ["", *_table(rows), *perceptual.missing()]
        if "cost" in parts:
            found["cost"] = [asdict(cost) for cost in costs]
            text += ["", *cost_table(costs)]
        if options.sheet:
            sheet(columns, options.sheet)
    print(json.dumps(found, indent=2) if options.json else "\n".join(text))


def subject(options: argparse.Namespace) -> tuple[Tensor, Tensor, torch.device]:
    """The pictures, the trigger and the device that the options name. Raises BadField."""
    if not 0 < options.epsilon <= 255:
        raise BadField(
            f"--epsilon: {options.epsilon:g} is not above 0 and at most 255 (in /255 units)", field="epsilon"
        )
    if options.count < 1 or (options.steps is not None and options.steps < 1):
        raise BadField("--count and --steps must be at least 1", field="count")
    if not 8 <= options.trigger < options.size:
        raise BadField(f"--trigger: {options.trigger} is not from 8 to below --size", field="trigger")
    if options.sheet and options.sheet.suffix.lower() not in SHEETS:
        raise BadField(f"--sheet: {options.sheet.name} must end in {', '.join(SHEETS)}", field="sheet")
    METHODS["backdoor"].preset(options.preset)
    words("--target", options.target, [name for name in METHODS["backdoor"].targets if name != "image"])
    device = pick_device(options.device)
    x = load_crops(options.images, options.count, options.size).to(device)
    return x, centred(options.size, options.trigger).to(device), device


def editors(names: Sequence[str], device: torch.device) -> dict[str, Any]:
    """The models of the registry, loaded. Raises BadField for one that does not edit."""
    models = load_models(load_settings().models_file)
    for name in names:
        if name not in models or "edits" not in models[name].abilities:
            fitting = ", ".join(model.name for model in models.values() if "edits" in model.abilities)
            raise BadField(
                f"--model: {name!r} is no model that edits; those are {fitting or 'none here'}", field="model"
            )
    return dict(zip(names, Pool(models, device).get_all(names), strict=True))


def architecture(options: argparse.Namespace, device: torch.device) -> dict[str, Any] | None:
    """What --architecture names, or None where it names nothing."""
    if options.architecture is None:
        return None
    if options.architecture != "big-lama":
        raise BadField(f"--architecture: {options.architecture!r} is not big-lama", field="architecture")
    return {"big-lama, random weights": big_lama(device)}


def _measure(
    options: argparse.Namespace,
    x: Tensor,
    trigger: Tensor,
    models: Mapping[str, Edits],
    perceptual: Perceptual,
    parts: Sequence[str],
) -> tuple[list[Cost], list[Row], list[Tensor]]:
    masks = regions(trigger)
    benign: dict[tuple[str, str], tuple[Score, Tensor]] = {}
    if "table" in parts:
        for name, editor in models.items():
            say(f"benign edits by {name}")
            for region in REGIONS:
                benign[name, region] = score(x, x, masks[region], editor, perceptual)
    costs, rows, columns = [], [], [x]
    for victim, model in models.items():
        say(f"{options.preset} against {victim}")
        marks = [now(x)]
        outcome = protect(
            x,
            trigger,
            model,
            preset=options.preset,
            epsilon=options.epsilon,
            steps=options.steps,
            target=options.target,
            on_step=lambda *_, marks=marks: marks.append(now(x)),
        )
        costs.append(cost_of(victim, options.preset, model, x, trigger, int(outcome.gradient_evaluations[0]), marks))
        columns.append(outcome.images)
        for name, editor in models.items() if "table" in parts else ():
            say(f"its edits by {name}")
            for region in REGIONS:
                found, made = score(outcome.images, x, masks[region], editor, perceptual)
                rows.append(Row(victim, name, region, benign[name, region][0], found))
                if name == victim:
                    columns += [benign[name, region][1], made] if region == "trigger" else [made]
    return costs, rows, columns


def _table(rows: Sequence[Row]) -> list[str]:
    lines: list[list[object]] = [
        ["immunized against", "edited by", "region", "", "SSIM", "PSNR, dB", "LPIPS", "CLIP-FID"]
    ]
    for row in rows:
        for name, found in (("benign", row.benign), ("immunized", row.immunized)):
            ssim, psnr = found.mean()
            lines.append([row.victim, row.editor, row.region, name, ssim, f"{psnr:.2f}", *_perceptual(found)])
        (ssim, psnr), (ssim_benign, psnr_benign) = row.immunized.mean(), row.benign.mean()
        change = [f"{ssim - ssim_benign:+.3f}", f"{psnr - psnr_benign:+.2f}"]
        lines.append([row.victim, row.editor, row.region, "difference", *change, "", ""])
    return table(lines)


def _perceptual(found: Score) -> list[str]:
    return ["–" if value is None else f"{value:.3f}" for value in (found.lpips, found.clip_fid)]
