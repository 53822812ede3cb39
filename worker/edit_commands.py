"""`immunize edit` and `immunize reconstruct`: what a model makes of a picture, immunized or not.

Imported by every `immunize` call, so heavy imports stay inside the functions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.contracts.catalog import load_models
from service.contracts.errors import BadField
from service.contracts.plan import MAX_SEED
from service.contracts.settings import load_settings
from worker.arguments import add_files, make_pool, output_format
from worker.files import destination, read_input, write_whole
from worker.process import prepare

if TYPE_CHECKING:
    from worker.models.latent import LatentModel

MAX_STEPS = 1000
MAX_GUIDANCE = 100


def register(commands: Any) -> None:
    """Add both to an argparse subparsers object."""
    edit = commands.add_parser("edit", help="edit one file with an editing model, as a person misusing it would")
    add_files(edit)
    edit.add_argument("--model", required=True, metavar="NAME", help="one of `immunize models` that edits")
    edit.add_argument(
        "--mask",
        type=Path,
        metavar="M",
        help="same size; white = what is repainted (default everything; inpainters that take no words need one)",
    )
    edit.add_argument("--prompt", default="", metavar="TEXT", help="what to paint (default: nothing said)")
    edit.add_argument("--seed", type=int, default=0, metavar="S", help="of the editor's noise (default 0)")
    edit.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    edit.add_argument(
        "--guidance", type=float, metavar="G", help="how closely to follow the words (default: the model's)"
    )
    edit.set_defaults(run=_edit)

    reconstruct = commands.add_parser("reconstruct", help="what a model's autoencoder makes of a picture")
    add_files(reconstruct)
    reconstruct.add_argument("--model", metavar="NAME", help="default: the first of `immunize models`")
    reconstruct.set_defaults(run=_reconstruct)


def _edit(options: argparse.Namespace) -> None:
    from service.contracts.pictures import check_format, read_mask, read_picture, write_picture

    settings = load_settings()
    models = load_models(settings.models_file)
    model = models.get(options.model)
    if model is None or "edits" not in model.abilities:
        fitting = ", ".join(name for name, known in models.items() if "edits" in known.abilities)
        what = "there is no such model" if model is None else f"{options.model} does not edit"
        raise BadField(f"--model: {what}; those that edit are {fitting or 'none here'}", field="model")
    format = output_format(options.output)
    for name in () if model.takes_words else ("prompt", "steps", "guidance"):
        if getattr(options, name) not in (None, ""):
            raise BadField(f"--{name}: {options.model} takes none; it fills what the mask says, untold", field=name)
    if options.steps is not None and not 1 <= options.steps <= MAX_STEPS:
        raise BadField(f"--steps: {options.steps} is not from 1 to {MAX_STEPS}", field="steps")
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

        pool = make_pool(settings, models)
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
    format = output_format(options.output)
    picture = read_picture(read_input(options.input), max_pixels=settings.max_pixels)
    check_format(format, picture)
    with destination(options.output):
        prepare()
        from worker.images import to_picture, to_tensor

        pool = make_pool(settings, models)
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
