"""The engine's commands. Imported by every `immunize` call, so heavy imports stay inside the functions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.contracts.catalog import METHODS, load_models
from service.contracts.errors import BadField
from service.contracts.plan import FIELDS, MAX_SEED, make_plan
from service.contracts.settings import load_settings
from worker.files import destination, read_input, write_whole
from worker.process import prepare

if TYPE_CHECKING:
    from worker.models.latent import LatentModel
    from worker.models.pool import Pool

MAX_EDIT_STEPS = 1000
MAX_GUIDANCE = 100
FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


def register(commands: Any) -> None:
    """Add the engine's commands to an argparse subparsers object."""
    image = commands.add_parser("image", help="immunize one file in this process")
    image.add_argument("input", type=Path, metavar="IN")
    image.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=f"{', '.join(FORMATS)}")
    image.add_argument("--mask", type=Path, metavar="M", help="same size; white = the sensitive region")
    image.add_argument("--method", metavar="NAME", help=f"{', '.join(METHODS)} (default encoder)")
    image.add_argument("--model", nargs="+", action="extend", metavar="NAME", help="one or more of `immunize models`")
    image.add_argument("--preset", metavar="NAME", help="fast, robust, early, paper, photoguard (default fast)")
    image.add_argument("--norm", metavar="NAME", help="linf or l2")
    image.add_argument("--epsilon", metavar="E", help="budget in /255 units (default: the preset's)")
    image.add_argument("--steps", metavar="N", help="gradient evaluations (default: the preset's)")
    image.add_argument("--seed", metavar="S", help="default: drawn, and told in the report")
    image.add_argument(
        "--target", metavar="T", help="gray, zero, noise, farthest, inverted or a picture's path (default gray)"
    )
    image.add_argument(
        "--prompt", action="append", metavar="TEXT", help="diffusion: what a misuser may ask for; repeat it"
    )
    image.add_argument("--denoising-steps", metavar="N", help="diffusion: steps of the edit that is attacked")
    image.add_argument(
        "--gradient-steps", metavar="N", help="diffusion: how many of them, the last ones, carry gradient"
    )
    image.add_argument("--repeats", metavar="N", help="diffusion: gradients averaged in a step")
    image.add_argument("--masks", metavar="NAME", help="diffusion: given, or random (grown or shrunken anew each time)")
    image.add_argument("--report", type=Path, metavar="R.json")
    image.set_defaults(run=_image)

    edit = commands.add_parser("edit", help="edit one file with an editing model, as a person misusing it would")
    edit.add_argument("input", type=Path, metavar="IN")
    edit.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=f"{', '.join(FORMATS)}")
    edit.add_argument("--model", required=True, metavar="NAME", help="one of `immunize models` that edits")
    edit.add_argument(
        "--mask", type=Path, metavar="M", help="same size; white = what is repainted (default everything)"
    )
    edit.add_argument("--prompt", default="", metavar="TEXT", help="what to paint (default: nothing said)")
    edit.add_argument("--seed", type=int, default=0, metavar="S", help="of the editor's noise (default 0)")
    edit.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    edit.add_argument(
        "--guidance", type=float, metavar="G", help="how closely to follow the words (default: the model's)"
    )
    edit.set_defaults(run=_edit)

    reconstruct = commands.add_parser("reconstruct", help="what a model's autoencoder makes of a picture")
    reconstruct.add_argument("input", type=Path, metavar="IN")
    reconstruct.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    reconstruct.add_argument("--model", metavar="NAME", help="default: the first of `immunize models`")
    reconstruct.set_defaults(run=_reconstruct)

    models = commands.add_parser("models", help="the registry: kinds, abilities, whether the weights are here")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=_models)

    worker = commands.add_parser("worker", help="one worker, for production: takes jobs from Redis until it is stopped")
    worker.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    worker.set_defaults(run=_worker)

    bench = commands.add_parser("bench", help="measure").add_subparsers(
        metavar="WHAT", required=True, parser_class=type(image)
    )
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


def _image(options: argparse.Namespace) -> None:
    settings = load_settings()
    format = FORMATS.get(options.output.suffix.lower())
    if format is None:
        raise BadField(f"-o: {options.output.name} must end in {', '.join(FORMATS)}", field="output")
    fields = {name: getattr(options, name, None) for name in FIELDS}
    fields |= {"format": format, "models": ",".join(options.model) if options.model else None}
    if options.prompt:
        fields["prompt"] = "".join(" ".join(prompt.split()) + "\n" for prompt in options.prompt)
    target = _target_file(options.target)
    if target is not None:
        fields["target"] = None
    models = load_models(settings.models_file)
    plan = make_plan({k: v for k, v in fields.items() if v is not None}, models, target_image=target is not None)

    from service.contracts.pictures import read_mask, read_picture

    limit = settings.max_pixels
    picture = read_picture(read_input(options.input), max_pixels=limit)
    mask = read_mask(read_input(options.mask), picture.size, max_pixels=limit) if options.mask else None
    goal = read_picture(read_input(target), max_pixels=limit, field="target").pixels if target else None
    with destination(options.output), destination(options.report):
        prepare()
        from worker.immunization import check, deliver

        check(picture, mask, plan)
        pool = _pool(settings.device)
        loaded = pool.get_all(plan.models)
        delivery = deliver(picture, mask, goal, plan, loaded, pool.device, _bar(plan.steps))
        if options.report:
            write_whole(options.report, (delivery.report.model_dump_json(indent=2) + "\n").encode())
        write_whole(options.output, delivery.data)
    report = delivery.report
    print(
        f"{options.output}: {report.width}x{report.height}, largest change {report.linf_255}/255, "
        f"PSNR {report.psnr_db} dB, loss {report.loss_initial:.4g} -> {report.loss_final:.4g} "
        f"({report.gradient_evaluations} gradients, {report.seconds:.1f} s)"
    )
    for warning in report.warnings:
        print(f"immunize: {warning}", file=sys.stderr)


def _target_file(target: str | None) -> Path | None:
    """The path that --target names, or None where it names a target of the catalog."""
    names = {name for method in METHODS.values() for name in method.targets if name != "image"}
    if target is None or target in names:
        return None
    if not Path(target).exists():
        raise BadField(f"--target: {target!r} is neither {', '.join(sorted(names))} nor a file", field="target")
    return Path(target)


def _bar(steps: int) -> Callable[[int, int, Any], None]:
    from tqdm import tqdm

    bar = tqdm(total=steps, unit="step", disable=None, leave=False)  # None: shown on a terminal only

    def on_step(step: int, steps: int, losses: Any) -> None:
        if not bar.disable:
            bar.set_postfix(loss=f"{float(losses[0]):.4g}", refresh=False)
        bar.update()
        if step == steps:
            bar.close()

    return on_step


def _pool(device: str) -> Pool:
    from worker.models.pool import Pool, pick_device

    settings = load_settings()
    return Pool(load_models(settings.models_file), pick_device(device), settings.models_memory)


def _edit(options: argparse.Namespace) -> None:
    from service.contracts.pictures import check_format, read_mask, read_picture, write_picture

    settings = load_settings()
    models = load_models(settings.models_file)
    model = models.get(options.model)
    if model is None or "edits" not in model.abilities:
        fitting = ", ".join(name for name, known in models.items() if "edits" in known.abilities)
        what = "there is no such model" if model is None else f"{options.model} does not edit"
        raise BadField(f"--model: {what}; those that edit are {fitting or 'none here'}", field="model")
    format = FORMATS.get(options.output.suffix.lower())
    if format is None:
        raise BadField(f"-o: {options.output.name} must end in {', '.join(FORMATS)}", field="output")
    if options.steps is not None and not 1 <= options.steps <= MAX_EDIT_STEPS:
        raise BadField(f"--steps: {options.steps} is not from 1 to {MAX_EDIT_STEPS}", field="steps")
    if not 0 <= options.seed <= MAX_SEED:
        raise BadField(f"--seed: {options.seed} is not from 0 to {MAX_SEED}", field="seed")
    if options.guidance is not None and not 0 <= options.guidance <= MAX_GUIDANCE:  # false for NaN too
        raise BadField(f"--guidance: {options.guidance:g} is not from 0 to {MAX_GUIDANCE}", field="guidance")
    limit = settings.max_pixels
    picture = read_picture(read_input(options.input), max_pixels=limit)
    mask = read_mask(read_input(options.mask), picture.size, max_pixels=limit) if options.mask else None
    check_format(format, picture)
    with destination(options.output):
        prepare()
        from worker.editing import edit
        from worker.images import to_picture, to_tensor
        from worker.memory import enough_memory
        from worker.models.abilities import EditOptions

        pool = _pool(settings.device)
        x = to_tensor(picture.pixels).to(pool.device)
        region = None if mask is None else to_tensor(mask).to(pool.device)
        how = EditOptions(steps=options.steps, guidance=options.guidance)
        editor = pool.get(options.model)
        with enough_memory():
            made = edit(x, region, options.prompt, editor, seed=options.seed, options=how)
        write_whole(options.output, write_picture(to_picture(made), picture, format))


def _reconstruct(options: argparse.Namespace) -> None:
    from service.contracts.pictures import check_format, read_picture, write_picture

    settings = load_settings()
    models = load_models(settings.models_file)
    name = options.model or next(iter(models))
    if name not in models:
        raise BadField(f"--model: there is no model {name!r}; there are {', '.join(models)}", field="model")
    format = FORMATS.get(options.output.suffix.lower())
    if format is None:
        raise BadField(f"-o: {options.output.name} must end in {', '.join(FORMATS)}", field="output")
    picture = read_picture(read_input(options.input), max_pixels=settings.max_pixels)
    check_format(format, picture)
    with destination(options.output):
        prepare()
        from worker.images import to_picture, to_tensor

        pool = _pool(settings.device)
        made = _autoencoded(pool.get(name), to_tensor(picture.pixels).to(pool.device))
        write_whole(options.output, write_picture(to_picture(made), picture, format))


def _autoencoded(model: LatentModel, x: Any) -> Any:
    """What comes out of encoding and decoding x, at x's own size."""
    import torch

    from worker.core.view import WorkingSize, resize

    height, width = x.shape[-2:]
    view = WorkingSize(model.size, model.multiple)
    with torch.no_grad():
        made = model.decode(model.encode(view(x)))
        down, right = view.shape(height, width)
        return resize(made[..., :down, :right], (height, width)).clamp(0, 1)


def _models(options: argparse.Namespace) -> None:
    from worker.models import registry

    rows = []
    for model in load_models(load_settings().models_file).values():
        present = registry.locate(model) is not None
        rows.append(
            model.model_dump(include={"name", "kind", "source", "size", "dtype", "licence", "description"})
            | {"abilities": list(model.abilities), "present": present}
            | ({} if present else {"how_to_get": registry.how_to_get(model)})
        )
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    table = [("name", "kind", "abilities", "size", "here", "licence")]
    for row in rows:
        here = "yes" if row["present"] else "no"
        size = str(row["size"] or "any")
        table.append((row["name"], row["kind"], ", ".join(row["abilities"]), size, here, row["licence"]))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for row in rows:
        if not row["present"]:
            print(f"{row['name']}: {row['how_to_get']}")


def _worker(options: argparse.Namespace) -> None:
    prepare()
    from worker.start import run_worker

    run_worker(load_settings(), options.parent)


def _bench_encoder(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.encoder import bench_encoder

    bench_encoder(options)


def _bench_diffusion(options: argparse.Namespace) -> None:
    prepare()
    from worker.bench.diffusion import bench_diffusion

    bench_diffusion(options)
