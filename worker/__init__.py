"""The engine. Its Python face, no server needed:

    from worker import EncoderAttack, Linf, immunize
    out = immunize(images, attack=EncoderAttack(model), budget=Linf(8 / 255))

Names are resolved on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.attacks.backdoor import BackdoorAttack
    from worker.attacks.diffusion import DiffusionAttack
    from worker.attacks.encoder import EncoderAttack
    from worker.core.budget import L2, Linf
    from worker.immunization import immunize

_HOMES = {
    "BackdoorAttack": "worker.attacks.backdoor",
    "DiffusionAttack": "worker.attacks.diffusion",
    "EncoderAttack": "worker.attacks.encoder",
    "L2": "worker.core.budget",
    "Linf": "worker.core.budget",
    "immunize": "worker.immunization",
}

__all__ = ["L2", "BackdoorAttack", "DiffusionAttack", "EncoderAttack", "Linf", "immunize"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
