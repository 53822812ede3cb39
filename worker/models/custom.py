"""Kind `python`: a vendor's own model, made by a function of the vendor's package."""

from __future__ import annotations

import importlib
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
    factory = getattr(importlib.import_module(module), name, None)
    if not callable(factory):
        raise BadField(f"models: {model.name}: {module} has no function {name}")
    made = factory(device=device, **model.options)
    for ability in model.abilities:
        if not isinstance(made, PROTOCOLS[ability]):
            raise BadField(f"models: {model.name} promises {ability!r}, but what {name} returns has no such method")
    if isinstance(made, nn.Module):
        made.eval().requires_grad_(False)
    if getattr(made, "size", None) is None and model.size is not None:
        made.size = model.size
    return made
