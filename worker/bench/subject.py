"""The encoder that a benchmark is about: a model of the registry, anybody's Python file, or an architecture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.contracts.catalog import DEFAULT_MODEL, METHODS, load_models
from service.contracts.errors import BadField
from service.contracts.settings import load_settings
from worker.bench.architectures import sd15_autoencoder, sd15_inpainting
from worker.models.abilities import Encodes
from worker.models.external import load_python
from worker.models.latent import DTYPES, KLAutoencoder, LatentModel
from worker.models.pool import Pool, pick_device

ARCHITECTURES = ("sd15",)


@dataclass(frozen=True)
class Subject:
    name: str
    encoder: Encodes
    size: int  # side of the pictures, unless another is asked for
    device: torch.device


def pick_subject(options: argparse.Namespace) -> Subject:
    """What --encoder, --architecture or --model names, on --device in --dtype. Raises BadField."""
    named = [name for name in ("encoder", "architecture", "model") if getattr(options, name)]
    if len(named) > 1:
        raise BadField(f"--{named[0]} and --{named[1]}: give one of them", field=named[0])
    device, dtype = pick_device(options.device), DTYPES[options.dtype]
    if options.encoder:
        subject = Subject(
            options.encoder.rpartition("/")[2], _Cast(load_python(options.encoder), device, dtype), 256, device
        )
    elif options.architecture:
        if options.architecture not in ARCHITECTURES:
            raise BadField(f"--architecture: {options.architecture!r} is not {' or '.join(ARCHITECTURES)}")
        network = KLAutoencoder(sd15_autoencoder())
        model = LatentModel(options.architecture, network, size=None, device=device, dtype=dtype)
        subject = Subject(f"{options.architecture}, random weights", model, 512, device)
    else:
        models = load_models(load_settings().models_file)
        name = options.model or DEFAULT_MODEL
        if name not in models:
            raise BadField(f"--model: there is no model {name!r}; there are {', '.join(models)}", field="model")
        entry = models[name].model_copy(update={"dtype": options.dtype})
        subject = Subject(name, Pool({name: entry}, device).get(name), entry.size or 256, device)
    return _compiled(subject) if options.compile else subject


def pick_editor(options: argparse.Namespace) -> tuple[str, Any, torch.device]:
    """Name, model and device of the editor that --architecture or --model names. Raises BadField."""
    device, dtype = pick_device(options.device), DTYPES[options.dtype]
    if options.architecture and options.model:
        raise BadField("--architecture and --model: give one of them", field="architecture")
    if options.architecture:
        if options.architecture not in ARCHITECTURES:
            raise BadField(f"--architecture: {options.architecture!r} is not {' or '.join(ARCHITECTURES)}")
        from worker.models.editor import DiffusionEditor

        pipeline = sd15_inpainting(dtype)
        model = DiffusionEditor(
            options.architecture, pipeline, size=None, device=device, dtype=dtype, recompute=not options.keep
        )
        return f"{options.architecture} inpainting, random weights", model, device
    models = load_models(load_settings().models_file)
    name = options.model or METHODS["diffusion"].default_model
    if name not in models or "edits" not in models[name].abilities:
        fitting = ", ".join(model.name for model in models.values() if "edits" in model.abilities)
        raise BadField(f"--model: {name!r} is no model that edits; those are {fitting or 'none here'}", field="model")
    entry = models[name].model_copy(update={"dtype": options.dtype})
    return name, Pool({name: entry}, device).get(name), device


class _Cast(nn.Module):
    """Somebody's encoder on the device and in the dtype that were asked for, as far as it can be moved."""

    def __init__(self, encoder: Encodes, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._encoder = encoder
        self.size = getattr(encoder, "size", None)
        self.multiple = getattr(encoder, "multiple", 8)
        if isinstance(encoder, nn.Module):
            encoder.eval().requires_grad_(False).to(device, dtype)
        elif device.type != "cpu" or dtype != torch.float32:
            raise BadField(
                "--encoder: it is no torch.nn.Module, so it stays on the CPU in float32; leave --device and --dtype"
            )
        self._dtype = dtype

    def encode(self, x: Tensor) -> Tensor:
        latents: Tensor = self._encoder.encode(x.to(self._dtype))
        return latents.float()


@dataclass(frozen=True)
class _Compiled:
    encode: Callable[[Tensor], Tensor]
    size: int | None
    multiple: int


def _compiled(subject: Subject) -> Subject:
    encoder = subject.encoder
    whole = _Compiled(torch.compile(encoder.encode), getattr(encoder, "size", None), getattr(encoder, "multiple", 8))
    return Subject(f"{subject.name}, compiled", whole, subject.size, subject.device)
