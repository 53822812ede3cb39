"""The engine's commands. Imported by every `immunize` call, so heavy imports stay inside the functions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.contracts.catalog import METHODS, load_models
from service.contracts.delivery import DATA_MINING, EXIF_POLICIES, check_sign
from service.contracts.errors import BadField
from service.contracts.plan import FIELDS, make_plan
from service.contracts.settings import load_settings
from worker import edit_commands
from worker.arguments import add_files, make_pool, output_format
from worker.bench import commands as bench_commands
from worker.files import destination, read_input, write_whole
from worker.process import prepare


def register(commands: Any) -> None:
    """Add the engine's commands to an argparse subparsers object."""
    image = commands.add_parser("image", help="immunize one file in this process")
    add_files(image)
    image.add_argument(
        "--mask", type=Path, metavar="M", help="same size; white = the sensitive region (backdoor: what is protected)"
    )
    image.add_argument("--method", metavar="NAME", help=f"{', '.join(METHODS)} (default encoder)")
    image.add_argument("--model", nargs="+", action="extend", metavar="NAME", help="one or more of `immunize models`")
    image.add_argument("--preset", metavar="NAME", help="fast, robust, early, paper, photoguard (default fast)")
    image.add_argument("--norm", metavar="NAME", help="linf or l2")
    image.add_argument("--epsilon", metavar="E", help="budget in /255 units (default: the preset's)")
    image.add_argument("--steps", metavar="N", help="gradient evaluations (default: the preset's)")
    image.add_argument("--seed", metavar="S", help="default: drawn, and told in the report")
    image.add_argument(
        "--target",
        metavar="T",
        help="gray, zero, noise, farthest, inverted or a picture's path (default: the method's first)",
    )
    image.add_argument(
        "--prompt", action="append", metavar="TEXT", help="diffusion, backdoor: what a misuser may ask for; repeat it"
    )
    image.add_argument("--denoising-steps", metavar="N", help="diffusion, backdoor: steps of the edit that is attacked")
    image.add_argument(
        "--gradient-steps", metavar="N", help="diffusion, backdoor: how many of them, the last ones, carry gradient"
    )
    image.add_argument("--repeats", metavar="N", help="diffusion: gradients averaged in a step")
    image.add_argument("--masks", metavar="NAME", help="diffusion: given, or random (grown or shrunken anew each time)")
    image.add_argument("--losses", metavar="NAMES", help="backdoor: of implant,incomplete,hide (default all)")
    image.add_argument("--order", metavar="NAME", help="backdoor, several models: parallel or sequential")
    image.add_argument("--quality", metavar="Q", help="jpeg: 1 to 100 (default 95)")
    image.add_argument("--exif", metavar="NAME", help=f"EXIF, XMP and IPTC: {', '.join(EXIF_POLICIES)} (default first)")
    image.add_argument(
        "--data-mining", metavar="NAME", help=f"written into XMP: {', '.join(DATA_MINING)} (default first)"
    )
    image.add_argument(
        "--sign", action="store_const", const="true", help="put in a C2PA manifest (see IMMUNIZE_C2PA_CERTIFICATE)"
    )
    image.add_argument("--report", type=Path, metavar="R.json")
    image.set_defaults(run=_image)

    edit_commands.register(commands)

    models = commands.add_parser("models", help="the registry: kinds, abilities, whether the weights are here")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=_models)

    worker = commands.add_parser("worker", help="one worker, for production: takes jobs from Redis until it is stopped")
    worker.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    worker.set_defaults(run=_worker)

    bench_commands.register(commands)


def _image(options: argparse.Namespace) -> None:
    settings = load_settings()
    format = output_format(options.output)
    fields = {name: getattr(options, name, None) for name in FIELDS}
    fields |= {"format": format, "models": ",".join(options.model) if options.model else None}
    if options.prompt:
        fields["prompt"] = "".join(" ".join(prompt.split()) + "\n" for prompt in options.prompt)
    target = _target_file(options.target)
    if target is not None:
        fields["target"] = None
    models = load_models(settings.models_file)
    plan = make_plan({k: v for k, v in fields.items() if v is not None}, models, target_image=target is not None)
    check_sign(plan.sign, able=settings.c2pa_certificate is not None)

    from service.contracts.pictures import read_mask, read_picture

    limit = settings.max_pixels
    picture = read_picture(read_input(options.input), max_pixels=limit)
    mask = read_mask(read_input(options.mask), picture.size, max_pixels=limit) if options.mask else None
    goal = read_picture(read_input(target), max_pixels=limit, field="target").pixels if target else None
    with destination(options.output), destination(options.report):
        prepare()
        from worker.delivery import deliver
        from worker.immunization import check
        from worker.signing import load_signer

        check(picture, mask, plan)
        signer = load_signer(settings) if plan.sign else None
        pool = make_pool(settings, models)
        loaded = pool.get_all(plan.models)
        delivery = deliver(picture, mask, goal, plan, loaded, pool.device, _bar(plan.steps), signer)
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
        bar.total = steps
        if not bar.disable:
            bar.set_postfix(loss=f"{float(losses[0]):.4g}", refresh=False)
        bar.update()
        if step == steps:
            bar.close()

    return on_step


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
