"""Kind `python`: a vendor's own model, made by a function of the vendor's package."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from worker.models import abilities

PROTOCOLS: dict[str, type] = {
    "encodes": abilities.Encodes,
    "decodes": abilities.Decodes,
    "denoises": abilities.Denoises,
    "edits": abilities.Edits,
}


def load_custom(model: Model, _: Path, device: torch.device) -> Any:
    """What the factory returns. It is called with `device` and the entry's `options`, and must have the abilities that
    the entry promises. Raises BadField."""
    module, _colon, name = model.source.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise BadField(f"models: {model.name}: {module} cannot be imported ({error.msg})", field="models") from error
    if not callable(factory):
        raise BadField(f"models: {model.name}: {module} has no function {name}", field="models")
    try:
        inspect.signature(factory).bind(device=device, **model.options)
    except TypeError as error:
        raise BadField(f"models: {model.name}: its options do not fit {name} ({error})", field="models") from None
    made = factory(device=device, **model.options)
    for ability in model.abilities:
        if not isinstance(made, PROTOCOLS[ability]):
            raise BadField(
                f"models: {model.name} promises {ability!r}, but what {name} returns has no such method", field="models"
            )
    if isinstance(made, nn.Module):
        made.eval().requires_grad_(False)
    if getattr(made, "size", None) is None and model.size is not None:
        made.size = model.size
    return made
