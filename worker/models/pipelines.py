"""Editors from diffusers folders: how each kind is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from worker.models import folders
from worker.models.abilities import EditOptions
from worker.models.editor import DiffusionEditor
from worker.models.latent import DTYPES
from worker.models.quiet import quiet
from worker.models.reading import network, reading

RECOMPUTE = 50_000_000  # parameters of a denoiser from which its activations are not kept
INSTRUCTED = ("InstructPix2Pix", "Kontext", "ImageEdit", "EditPipeline")  # in the class names of instruct pipelines
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # an attack has no use for them


def load_editor(model: Model, folder: Path, device: torch.device) -> DiffusionEditor:
    """The editor in a folder that `registry.locate` found.

    Raises BadField where the pipeline is not of this kind or its files are damaged.
    """
    with quiet():
        pipeline = _pipeline(model, folder)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    return DiffusionEditor(
        model.name,
        pipeline,
        size=model.size,
        device=device,
        dtype=DTYPES[model.dtype],
        defaults=EditOptions(steps=model.steps, guidance=model.guidance),
        recompute=sum(parameter.numel() for parameter in denoiser.parameters()) >= RECOMPUTE,
    )


def _pipeline(model: Model, folder: Path) -> Any:
    import diffusers  # seven seconds, so only when an editor is loaded

    index = json.loads((folder / folders.INDEX).read_text(encoding="utf-8"))
    name, dtype = str(index.get("_class_name")), DTYPES[model.dtype]
    makers = {
        "diffusers-inpaint": diffusers.AutoPipelineForInpainting,
        "diffusers-img2img": diffusers.AutoPipelineForImage2Image,
        "diffusers-instruct": diffusers.DiffusionPipeline,
    }
    if model.kind == "diffusers-instruct" and not any(word in name for word in INSTRUCTED):
        raise BadField(f"models: {model.name} is a {name}, which takes no instructions; {_fitting(name)}")
    parts = {part: entry for part, entry in index.items() if isinstance(entry, list)}
    if parts["vae"][1] not in AUTOENCODERS:
        raise BadField(
            f"models: the vae of {model.name} is of class {parts['vae'][1]}; "
            f"an editor is run with {' or '.join(AUTOENCODERS)}"
        )
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "use_safetensors": True,
        "low_cpu_mem_usage": False,  # that way needs accelerate
        "variant": "fp16" if folders.half(folder) else None,
    }
    options |= {part: None for part, entry in parts.items() if part in UNUSED or entry[0] is None}
    if "requires_safety_checker" in index:
        options["requires_safety_checker"] = False
    with reading(model.name):
        for part, (library, kind) in parts.items():
            if library == "diffusers" and part in ("unet", "transformer", "vae"):
                found = network(folder / part, kind)
                options[part] = found if part == "vae" else found.to(dtype)
        try:
            pipeline = makers[model.kind].from_pretrained(folder, **options)
        except ValueError as error:
            if "AutoPipeline" in str(error):
                raise BadField(
                    f"models: {model.name} is a {name}, which is no {model.kind}; {_fitting(name)}"
                ) from None
            raise
    return _checked(model, pipeline)


def _checked(model: Model, pipeline: Any) -> Any:
    """Refuse networks that are another kind's; run one with wide latents through the pipeline made for them."""
    unet = getattr(pipeline, "unet", None)
    if unet is None:
        return pipeline
    taken, latent = unet.config.in_channels, pipeline.vae.config.latent_channels
    fitting = {
        "diffusers-inpaint": (latent, 2 * latent + 1),
        "diffusers-img2img": (latent,),
        "diffusers-instruct": (2 * latent,),
    }[model.kind]
    if taken not in fitting:
        expected = " or ".join(str(number) for number in fitting)
        raise BadField(
            f"models: the unet of {model.name} takes {taken} channels; as {model.kind} with {latent} latent channels "
            f"it would take {expected}"
        )
    if model.kind == "diffusers-inpaint" and taken not in (4, 9):
        from worker.models.wide import WideInpaintPipeline

        if taken == latent:
            raise BadField(
                f"models: {model.name}: inpainting without a mask's channels is run for 4 latent channels only"
            )
        return WideInpaintPipeline(**pipeline.components, requires_safety_checker=False)  # type: ignore[no-untyped-call]
    return pipeline


def _fitting(name: str) -> str:
    if any(word in name for word in INSTRUCTED):
        return "its kind is diffusers-instruct"
    return "kinds are diffusers-inpaint, diffusers-img2img and diffusers-instruct"
